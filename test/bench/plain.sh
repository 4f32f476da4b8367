#!/bin/bash
# The peer: a machine by hand, as one would write it with qemu-img and virsh. It has the processor, the memory and the
# disk that sandboxd gives, so that the ratio tells what sandboxd adds; it has no seed and so no identity of its own.
#   plain.sh up IMAGE DIR NAME     until the first command has run in the guest
#   plain.sh down DIR NAME
set -euo pipefail
verb=$1
shift
if [ "$verb" = down ]; then
	virsh -q destroy "$2"
	virsh -q undefine "$2"
	rm "$1/$2.qcow2"
	exit
fi
image=$1 dir=$2 name=$3
qemu-img create -q -f qcow2 -F qcow2 -b "$image" "$dir/$name.qcow2"
virsh -q define /dev/stdin <<XML
<domain type='qemu'>
  <name>$name</name>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='allow'>qemu64</model>
    <feature policy='require' name='rdrand'/>
    <feature policy='require' name='cx16'/>
    <feature policy='require' name='lahf_lm'/>
    <feature policy='require' name='popcnt'/>
    <feature policy='require' name='ssse3'/>
    <feature policy='require' name='sse4.1'/>
    <feature policy='require' name='sse4.2'/>
  </cpu>
  <devices>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file='$dir/$name.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='$dir/$name.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
</domain>
XML
virsh -q start "$name"
agent() { virsh -q qemu-agent-command --timeout 5 "$name" "$1" 2>/dev/null; }
until agent '{"execute":"guest-ping"}' >/dev/null; do sleep 0.05; done
pid=$(agent '{"execute":"guest-exec","arguments":{"path":"/bin/hostname","capture-output":true}}' | sed 's/[^0-9]//g')
until status=$(agent "{\"execute\":\"guest-exec-status\",\"arguments\":{\"pid\":$pid}}") && [[ $status == *'"exited":true'* ]]; do sleep 0.02; done
[[ $status == *'"exitcode":0'* ]]
