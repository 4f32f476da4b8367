// Package unattended answers the questions of operating systems' installers, and
// knows how to start those that ask for more than a CD in the drive.
//
//	UnattendedInstall, password ──▶ Answers ──Write──▶ CD labelled cidata
//	                                                   ├── user-data, meta-data   autoinstall (Ubuntu)
//	                                                   └── preseed.cfg            debian-installer
//	installer's ISO ──Recognise──▶ Boot: kernel, initramfs, command line, or nothing:
//	                               then the ISO is booted as it is
//
// An ISO is hostile input: it is read within bounds, and nothing of it becomes a
// path or an argument. A password leaves this package as a hash only.
package unattended
