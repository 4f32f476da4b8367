# Replaces a user's authorized ssh keys with our input: keys.sh USER. Prints ok,
# or what is wrong. For agents that have no command for it.
u=$1
id -u "$u" >/dev/null 2>&1 || { echo user; exit 0; }
h=$(sed -n "s/^$u:[^:]*:[^:]*:[^:]*:[^:]*:\([^:]*\):.*/\1/p" /etc/passwd)
[ -n "$h" ] || { echo home; exit 0; }
umask 077
if mkdir -p "$h/.ssh" && cat >"$h/.ssh/.sandboxd" && chmod 600 "$h/.ssh/.sandboxd" &&
	chown "$u" "$h/.ssh" "$h/.ssh/.sandboxd" && mv -f "$h/.ssh/.sandboxd" "$h/.ssh/authorized_keys"; then
	echo ok
else
	echo home
fi 2>/dev/null
