# Runs a command and reports:
#   exec.sh TOKEN DIR STDIN DATA INNER USER CWD NENV [NAME=VALUE...] COMMAND [ARG...]
# STDIN is none, inline (DATA is the command's) or file (DIR.in). A report is the
# byte 1, TOKEN, a space, the words and a newline: "start" when the command is
# started, "done EXIT-CODE" or "refused REASON" at the end, on both streams.
t=$1 d=$2 i=$3 x=$4 inner=$5 u=$6
shift 6
report() {
	printf '\001%s %s\n' "$t" "$1"
	printf '\001%s %s\n' "$t" "$1" >&2
}
refuse() {
	rm -rf "$d" "$d.in" 2>/dev/null
	report "refused $1"
	exit 0
}
m=$(umask)
umask 077
{ mkdir "$d" && echo "$$" >"$d/run" && true >"$d/fail"; } 2>/dev/null || refuse temp
case $i in
file) exec 3<"$d.in" && rm -f "$d.in" ;;
inline) printf '%s' "$x" >"$d/in" && exec 3<"$d/in" ;;
*) exec 3</dev/null ;;
esac 2>/dev/null || refuse temp
umask "$m"
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
w=$(id -un 2>/dev/null) s= su=
if [ -n "$u" ] && [ "$u" != "$w" ]; then
	id -u "$u" >/dev/null 2>&1 || refuse user
	[ "$(id -u)" = 0 ] || refuse su
	su=su
fi
command -v setsid >/dev/null && s=setsid
printf '\001%s start\n' "$t"
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
