# Runs a command at the terminal that we were given, and reports:
#   terminal.sh TOKEN DIR USER INNER CWD NENV [NAME=VALUE...] COMMAND [ARG...]
# DIR is there. The reports are those of exec.sh, once each, for a terminal has one
# stream.
t=$1 d=$2 u=$3 inner=$4
shift 4
report() { printf '\001%s %s\n' "$t" "$1"; }
refuse() {
	rm -rf "$d" 2>/dev/null
	report "refused $1"
	exit 0
}
m=$(umask)
umask 077
# We lead the session, if the login shell has become us.
{ echo "$$" >"$d/run" && echo "$$" >"$d/pid" && : >"$d/fail"; } 2>/dev/null || refuse temp
umask "$m"
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
su=
if [ -n "$u" ] && [ "$u" != "$(id -un 2>/dev/null)" ]; then
	id -u "$u" >/dev/null 2>&1 || refuse user
	[ "$(id -u)" = 0 ] || refuse su
	su=-c
	# With -c, the su of util-linux leaves the terminal's session.
	case $(su --help 2>&1) in
	*--session-command*) su=--session-command ;;
	esac
fi
# What is typed to end the command is not for us, and not to be ignored by it. A
# hangup ends us at once, as it should: that is what tells the command.
trap : INT QUIT
report start
exec 5>&2 2>/dev/null # what killed the command is not for us to say
if [ -n "$su" ]; then
	(exec su -s /bin/sh "$su" "$inner" -- "$u" sh "" "$@" 4>"$d/fail" 2>&5 5>&-)
else
	(exec sh -c "$inner" sh "" "$@" 4>"$d/fail" 2>&5 5>&-)
fi
c=$?
if [ -s "$d/fail" ]; then
	read -r f <"$d/fail"
	refuse "$f"
fi
rm -rf "$d" 2>/dev/null
report "done $c"
