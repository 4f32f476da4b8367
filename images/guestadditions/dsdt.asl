/*
 * What the guest's kernel is told of the machine instead of the firmware's own description, whose programs trace what
 * they do letter by letter: interpreted on an interpreted processor, that is a quarter of the kernel's start. The power
 * button, the power-off and the reset need nothing here: the firmware's other tables have their registers.
 *
 *   \_S5    what powers the machine off
 *   \_PIC   the kernel says which interrupt controller it uses: 0 the old pair, 1 the I/O APIC
 *   PCI0    the only bus: what addresses it has, and where its cards' interrupts arrive
 *
 * The figures are those of VirtualBox's machine with the chipset PIIX3.
 */
DefinitionBlock ("", "DSDT", 1, "SBXD  ", "GUEST   ", 1)
{
	Name (\_S5, Package () {5, 5})

	Name (APIC, 0)
	Method (\_PIC, 1) { APIC = Arg0 }

	Scope (\_SB)
	{
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A03"))
			Name (_UID, 0)
			Name (_BBN, 0)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
				IO (Decode16, 0xCF8, 0xCF8, 1, 8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0, 0xCF7, 0, 0xCF8)
				WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, 0, 0xD00, 0xFFFF, 0, 0xF300)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite, 0, 0xA0000, 0xBFFFF, 0, 0x20000)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite, 0, 0xE0000000, 0xFDFFFFFF, 0, 0x1E000000)
			})

			/* With these two numbers in it, the bridge sends the cards' interrupts to the I/O APIC. */
			Device (SBRG)
			{
				Name (_ADR, 0x00010000)
				OperationRegion (CONF, PCI_Config, 0, 0x100)
				Field (CONF, ByteAcc, NoLock, Preserve)
				{
					Offset (0xAD),
					APAD, 8,
					Offset (0xDE),
					APDE, 8
				}
			}

			/* Slot by slot, pin A, the only one in use. For the old pair, the firmware has left the numbers in the cards. */
			Name (PINS, Package ()
			{
				Package () {0x0002FFFF, 0, 0, 18},
				Package () {0x0003FFFF, 0, 0, 19},
				Package () {0x0004FFFF, 0, 0, 20},
				Package () {0x0005FFFF, 0, 0, 21},
				Package () {0x0006FFFF, 0, 0, 22},
				Package () {0x0007FFFF, 0, 0, 23},
				Package () {0x0008FFFF, 0, 0, 16},
				Package () {0x0009FFFF, 0, 0, 17},
				Package () {0x000AFFFF, 0, 0, 18},
				Package () {0x000BFFFF, 0, 0, 19},
				Package () {0x000CFFFF, 0, 0, 20},
				Package () {0x000DFFFF, 0, 0, 21},
				Package () {0x000EFFFF, 0, 0, 22},
				Package () {0x000FFFFF, 0, 0, 23},
				Package () {0x0010FFFF, 0, 0, 16},
				Package () {0x0011FFFF, 0, 0, 17},
				Package () {0x0012FFFF, 0, 0, 18},
				Package () {0x0013FFFF, 0, 0, 19},
				Package () {0x0014FFFF, 0, 0, 20},
				Package () {0x0015FFFF, 0, 0, 21},
				Package () {0x0016FFFF, 0, 0, 22},
				Package () {0x0017FFFF, 0, 0, 23},
				Package () {0x0018FFFF, 0, 0, 16},
				Package () {0x0019FFFF, 0, 0, 17},
				Package () {0x001AFFFF, 0, 0, 18},
				Package () {0x001BFFFF, 0, 0, 19},
				Package () {0x001CFFFF, 0, 0, 20},
				Package () {0x001DFFFF, 0, 0, 21},
				Package () {0x001EFFFF, 0, 0, 22},
				Package () {0x001FFFFF, 0, 0, 23}
			})
			Method (_PRT)
			{
				If (APIC)
				{
					^SBRG.APAD = 0xEF
					^SBRG.APDE = 0xBE
					Return (PINS)
				}
				Return (Package () {})
			}
		}
	}
}
