/*
 * What the boot loader starts instead of Debian's decompressor: moves the kernel, which stands uncompressed behind this
 * code, to where it wants to be, switches to 64-bit mode and enters it.
 *
 * Where QEMU emulates the processor, Debian's decompressor takes four of the nine seconds of a boot, and this code a
 * tenth of one. The price is a larger file.
 *
 *   on entry (32-bit boot protocol)      on exit (as the decompressor leaves it)
 *   at BASE = 0x100000, esi = parameters  at ENTRY, rsi = parameters
 *   paging off, interrupts off            64-bit, the first 4 GiB mapped one to one, interrupts off
 *
 *   0x100000  this code, at most one page
 *   0x101000  the kernel as loaded (SIZE bytes, a multiple of 4), then dead space; the page tables are put there
 *   TARGET    the kernel as it runs
 *
 * SIZE, TARGET and ENTRY are given to the assembler.
 */
	.set LOADED, 0x101000
	.set TABLES, 0x110000		/* PML4, PDPT, 4 page directories: 6 pages */

	.code32
	.globl _start
_start:
	cli
	mov	%esi, %ebp

	/* The two places may overlap, and the new one is higher: copy from the end. */
	std
	mov	$(LOADED + SIZE - 4), %esi
	mov	$(TARGET + SIZE - 4), %edi
	mov	$(SIZE / 4), %ecx
	rep movsl
	cld

	mov	$TABLES, %edi
	xor	%eax, %eax
	mov	$(6 * 4096 / 4), %ecx
	rep stosl
	movl	$(TABLES + 0x1000 + 3), TABLES		/* 3: present, writable */
	mov	$(TABLES + 0x1000), %edi
	mov	$(TABLES + 0x2000 + 3), %eax
	mov	$4, %ecx
1:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$8, %edi
	loop	1b
	mov	$(TABLES + 0x2000), %edi
	mov	$0x83, %eax				/* and 0x80: a page of 2 MiB */
	mov	$(4 * 512), %ecx
2:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	2b

	mov	%cr4, %eax
	or	$0x20, %eax				/* PAE */
	mov	%eax, %cr4
	mov	$TABLES, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx			/* EFER */
	rdmsr
	or	$0x100, %eax				/* LME */
	wrmsr
	lgdt	gdt_pointer
	mov	%cr0, %eax
	or	$0x80000001, %eax			/* PG, PE */
	mov	%eax, %cr0
	ljmp	$0x10, $long_mode

	.code64
long_mode:
	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	mov	%ebp, %esi
	mov	$ENTRY, %eax
	jmp	*%rax

	/* Code at selector 0x10 and data at 0x18, as the boot protocol has them. */
	.balign	8
gdt:
	.quad	0, 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt
