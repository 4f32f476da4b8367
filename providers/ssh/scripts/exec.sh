# Runs a command and reports:
#   exec.sh TOKEN DIR STDIN DATA USER INNER CWD NENV [NAME=VALUE...] COMMAND [ARG...]
# STDIN is none, inline (DATA is the command's) or stream (what follows). A report is the
# byte 1, TOKEN, a space, the words and a newline, on both streams: "start" when
# the command is started, "done EXIT-CODE" or "refused REASON" at the end.
t=$1 d=$2 i=$3 x=$4 u=$5 inner=$6
shift 6
report() {
	printf '\001%s %s\n' "$t" "$1"
	printf '\001%s %s\n' "$t" "$1" >&2
}
refuse() {
	rm -rf "$d" 2>/dev/null
	report "refused $1"
	exit 0
}
m=$(umask)
umask 077
{ mkdir "$d" && echo "$$" >"$d/run" && : >"$d/fail"; } 2>/dev/null || refuse temp
case $i in
stream) exec 3<&0 ;;
inline) printf '%s' "$x" >"$d/in" && exec 3<"$d/in" ;;
*) exec 3</dev/null ;;
esac 2>/dev/null || refuse temp
umask "$m"
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
s= su=
if [ -n "$u" ] && [ "$u" != "$(id -un 2>/dev/null)" ]; then
	id -u "$u" >/dev/null 2>&1 || refuse user
	[ "$(id -u)" = 0 ] || refuse su
	su=su
fi
command -v setsid >/dev/null && s=setsid
report start
if [ -n "$su" ]; then
	$s sh -c 'echo "$$" >"$1/pid"; shift; exec "$@"' sh "$d" \
		su -s /bin/sh -c "$inner" -- "$u" sh "" "$@" <&3 3<&- 4>"$d/fail" &
else
	$s sh -c "$inner" sh "$d/pid" "$@" <&3 3<&- 4>"$d/fail" &
fi
exec 3<&-
wait "$!" 2>/dev/null
c=$?
if [ -s "$d/fail" ]; then
	read -r f <"$d/fail"
	refuse "$f"
fi
rm -rf "$d" 2>/dev/null
report "done $c"
