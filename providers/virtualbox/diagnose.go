package virtualbox

// driver is the device of VirtualBox's kernel driver on Linux.
const driver = "/dev/vboxdrv"
