# Removes from a guest what its clones must not share. It runs as root, after the
# steps and before the guest shuts down, in whatever shell the image has: so there
# are no patterns, functions or tests that a small one lacks. What a guest does not
# have, such as cloud-init, is passed over. LEFTOVER, when set, is a key of ours.

if [ "$(id -u)" -ne 0 ]; then
	exec sudo -n LEFTOVER="$LEFTOVER" /bin/sh "$0"
fi
echo "==> cleaning"

# Who the machine is. It is told anew by systemd, or by what the image has for it.
if [ -e /etc/machine-id ]; then
	: >/etc/machine-id
fi
if [ -f /var/lib/dbus/machine-id ] && [ ! -h /var/lib/dbus/machine-id ]; then
	rm -f /var/lib/dbus/machine-id
fi

# The keys by which ssh servers prove who they are.
for kind in rsa dsa ecdsa ed25519; do
	rm -f "/etc/ssh/ssh_host_${kind}_key" "/etc/ssh/ssh_host_${kind}_key.pub" "/etc/dropbear/dropbear_${kind}_host_key"
done
find /etc/ssh -name 'ssh_host_*_key*' -type f -exec rm -f {} + 2>/dev/null
find /etc/dropbear -name 'dropbear_*_host_key' -type f -exec rm -f {} + 2>/dev/null

# What the seed of this machine has set up: a clone has a seed of its own.
if [ -x /usr/bin/cloud-init ] || [ -x /usr/local/bin/cloud-init ]; then
	cloud-init clean --logs >/dev/null 2>&1 || rm -rf /var/lib/cloud/instance /var/lib/cloud/instances /var/lib/cloud/data
fi
rm -f /var/lib/tiny/identity /var/log/seed.log
if [ -n "$LEFTOVER" ]; then
	find /root/.ssh /home -maxdepth 3 -name authorized_keys -type f 2>/dev/null | while read -r keys; do
		if grep -qxF -- "$LEFTOVER" "$keys"; then
			grep -vxF -- "$LEFTOVER" "$keys" >"$keys.sandboxd"
			cat "$keys.sandboxd" >"$keys"
			rm -f "$keys.sandboxd"
		fi
	done
fi

# Traces of this machine's life: leases, saved randomness, logs, histories.
rm -f /var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/misc/random-seed
rm -f /etc/udev/rules.d/70-persistent-net.rules
find /var/lib/dhcp /var/lib/dhclient /var/lib/NetworkManager -name '*lease*' -type f -exec rm -f {} + 2>/dev/null
find /var/log/journal -mindepth 1 -maxdepth 1 -exec rm -rf {} + 2>/dev/null
find /var/log -type f -exec sh -c 'for log; do : >"$log"; done' sh {} + 2>/dev/null
rm -f /root/.bash_history /root/.ash_history /root/.sh_history /root/.lesshst /root/.viminfo
find /home -maxdepth 2 -name '.*_history' -type f -exec rm -f {} + 2>/dev/null

# Space that is free becomes a hole of the disk, where the hypervisor passes it on.
sync
fstrim -a >/dev/null 2>&1 || fstrim / >/dev/null 2>&1

# What matters is looked at once more.
if [ -s /etc/machine-id ]; then
	echo "/etc/machine-id could not be emptied" >&2
	exit 1
fi
for kind in rsa dsa ecdsa ed25519; do
	if [ -e "/etc/ssh/ssh_host_${kind}_key" ] || [ -e "/etc/dropbear/dropbear_${kind}_host_key" ]; then
		echo "the ssh host key of kind $kind could not be removed" >&2
		exit 1
	fi
done
sync
exit 0
