# Makes $as run the text $inner as another user; at a terminal, if $tty says so, and
# else in a session of its own.
id -u "$user" >/dev/null 2>&1 || refuse user
if [ "$user" != "$(id -un 2>/dev/null)" ]; then
	[ "$(id -u)" = 0 ] || refuse su
	as='exec su -s /bin/sh -c "$inner" -- "$user"'
	if [ -n "$tty" ]; then
		# With -c, the su of util-linux leaves the terminal's session.
		case $(su --help 2>&1) in
		*--session-command*) as='exec su -s /bin/sh --session-command "$inner" -- "$user"' ;;
		esac
	elif command -v setsid >/dev/null; then
		as="exec setsid -- ${as#exec }"
	fi
fi
