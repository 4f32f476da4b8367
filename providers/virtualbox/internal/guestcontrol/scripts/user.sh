# Makes $as run the text $inner as another user.
id -u "$user" >/dev/null 2>&1 || refuse user
if [ "$user" != "$(id -un 2>/dev/null)" ]; then
	[ "$(id -u)" = 0 ] || refuse su
	as='exec su -s /bin/sh -c "$inner" -- "$user"'
fi
