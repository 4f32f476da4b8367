umask 077
mkdir -p "$1/.ssh" && cat >"$1/.ssh/.sandboxd" && chmod 600 "$1/.ssh/.sandboxd" &&
	mv -f "$1/.ssh/.sandboxd" "$1/.ssh/authorized_keys" && echo ok
