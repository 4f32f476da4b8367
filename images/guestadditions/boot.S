/*
 * The boot loader of the guest. It reads a kernel that stands uncompressed in a row of sectors to where it runs, and
 * enters it.
 *
 * A general boot loader spends half as much time as the kernel that it loads where the processor is interpreted: on its
 * modules, on the file system, on moving the kernel about. The firmware reads and moves blocks at full speed.
 *
 *   disk   0     this, the first 440 bytes: the boot sector, which reads the next
 *          2048  this, from 512 on: LOADER_SECTORS sectors
 *                the kernel as it stands in memory, SIZE bytes
 *
 *   memory 0x7c00   this, and on its end the kernel's command line
 *          0x10000  PARAMS: the kernel's parameters, among them the map of the memory
 *          0x20000  BLOCK: what was read, before it goes to its place
 *          0x40000  TABLES: the first GiB mapped one to one
 *          TARGET   the kernel, entered at ENTRY in 64-bit mode with rsi = PARAMS and interrupts off
 *
 * SIZE, TARGET and ENTRY are given to the assembler. The offsets into PARAMS are those of the x86 boot protocol.
 */
	.set PARAMS, 0x10000
	.set BLOCK, 0x20000
	.set TABLES, 0x40000
	.set BLOCK_SECTORS, 64
	.set LOADER_SECTORS, (end - loader) / 512

	.code16
	.globl _start
_start:
	ljmp	$0, $1f
1:	xor	%ax, %ax
	mov	%ax, %ds
	mov	%ax, %ss
	mov	$_start, %sp
	cld
	call	read
	jmp	loader

/* Reads what the packet says; the drive is still in dl, where the firmware puts it. */
read:
	mov	$packet, %si
	mov	$0x42, %ah
	int	$0x13
	jc	fail
	ret

fail:
	mov	$message, %si
1:	lodsb
	test	%al, %al
	jz	2f
	mov	$0x0e, %ah
	int	$0x10
	jmp	1b
2:	hlt
	jmp	2b

message:
	.asciz	"The disk cannot be read."
	.balign	4
packet:
	.byte	16, 0
count:	.word	LOADER_SECTORS
address:
	.word	loader, 0
lba:	.quad	2048

	.org	440			/* and no further: the partition table */
	.if	(TARGET & 0xffffff) + SIZE > 16 << 20
	.error	"the kernel is larger than the loader can count"
	.endif
	.org	512
loader:
	mov	%dl, drive
	mov	$(PARAMS >> 4), %ax
	mov	%ax, %es
	xor	%di, %di
	xor	%ax, %ax
	mov	$2048, %cx
	rep stosw
	movw	$0xaa55, %es:0x1fe		/* boot_flag */
	movl	$0x53726448, %es:0x202		/* header: HdrS */
	movw	$0x020c, %es:0x206		/* version */
	movb	$0xff, %es:0x210		/* type_of_loader: none that has a number */
	movb	$1, %es:0x211			/* loadflags: loaded high */
	movl	$command_line, %es:0x228	/* cmd_line_ptr */
	movl	$seed, %es:0x250		/* setup_data */
	rdtsc
	mov	%eax, seed + 16

	/* The map of the memory: e820_table, e820_entries. */
	mov	$0x2d0, %di
	xor	%ebx, %ebx
1:	mov	$0xe820, %eax
	mov	$0x534d4150, %edx
	mov	$20, %ecx
	int	$0x15
	jc	2f
	incb	%es:0x1e8
	add	$20, %di
	test	%ebx, %ebx
	jz	2f
	cmp	$(0x2d0 + 128 * 20), %di
	jb	1b
2:	mov	drive, %dl

	/* The kernel, block by block: read, moved by the firmware. */
	addl	$LOADER_SECTORS, lba
	movw	$BLOCK_SECTORS, count
	movl	$(BLOCK << 12), address
	xor	%ax, %ax
	mov	%ax, %es
3:	call	read
	mov	$moves, %si
	mov	$(BLOCK_SECTORS * 512 / 2), %cx
	mov	$0x87, %ah
	int	$0x15
	jc	fail
	addl	$BLOCK_SECTORS, lba
	addl	$(BLOCK_SECTORS * 512), to	/* its lower 24 bits */
	decw	blocks
	jnz	3b

	cli
	in	$0x92, %al		/* all address lines; the firmware's move left them as they were at the start */
	or	$2, %al
	out	%al, $0x92
	mov	$(TABLES >> 4), %ax
	mov	%ax, %es
	xor	%di, %di
	xor	%ax, %ax
	mov	$(3 * 4096 / 2), %cx
	rep stosw
	movl	$(TABLES + 0x1000 + 3), %es:0	/* 3: present, writable */
	movl	$(TABLES + 0x2000 + 3), %es:0x1000
	mov	$0x2000, %di
	mov	$0x83, %eax			/* and 0x80: a page of 2 MiB */
4:	mov	%eax, %es:(%di)
	add	$8, %di
	add	$0x200000, %eax
	cmp	$0x3000, %di
	jb	4b

	mov	%cr4, %eax
	or	$0x20, %eax			/* PAE */
	mov	%eax, %cr4
	mov	$TABLES, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx		/* EFER */
	rdmsr
	or	$0x100, %eax			/* LME */
	wrmsr
	lgdt	gdt_pointer
	mov	%cr0, %eax
	or	$0x80000001, %eax		/* PG, PE: from real mode to long mode at once */
	mov	%eax, %cr0
	ljmp	$0x10, $5f

	.code64
5:	mov	$0x18, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%eax, %fs
	mov	%eax, %gs
	mov	$PARAMS, %esi
	mov	$ENTRY, %eax
	jmp	*%rax

drive:	.byte	0
blocks:	.word	(SIZE + BLOCK_SECTORS * 512 - 1) / (BLOCK_SECTORS * 512)

/* For the firmware's move: the third descriptor is where from, the fourth where to. */
	.balign	8
moves:
	.quad	0, 0
	.word	0xffff
	.word	BLOCK & 0xffff
	.byte	BLOCK >> 16, 0x93, 0, 0
	.word	0xffff
to:	.word	TARGET & 0xffff
	.byte	TARGET >> 16 & 0xff, 0x93, 0, TARGET >> 24
	.quad	0, 0

/* Code at selector 0x10 and data at 0x18, as the boot protocol has them. */
	.balign	8
gdt:
	.quad	0, 0, 0x00af9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

/*
 * What the kernel begins its random numbers with. Without it, it mixes what it has anew for each of the first thousand,
 * and makes the first who asks for good ones wait for seconds; with it, they are not good ones.
 */
	.balign	8
seed:	.quad	0			/* the next one: none */
	.long	9, 32			/* SETUP_RNG_SEED, bytes */
	.fill	32

command_line:
	.incbin	"cmdline"
	.byte	0
	.balign	512
end:
