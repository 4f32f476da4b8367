# Runs a command, keeps its output in files of a private directory, and reports.
#   run.sh DIR USER CWD STDIN MAX INNER NENV [NAME=VALUE...] COMMAND [ARG...]
# STDIN is none, inline (ours is the command's) or file (DIR/in). The report is
# one line: "refused REASON", or "done EXIT-CODE OUT-BYTES ERR-BYTES inline|files";
# with inline, which is for at most MAX bytes each, the output itself follows.
d=$1 u=$2 w=$3 i=$4 max=$5 inner=$6
shift 6
m=$(umask)
umask 077
refuse() {
	rm -rf "$d"
	echo "refused $1"
	exit 0
}
[ "$i" = file ] || mkdir "$d" 2>/dev/null || refuse temp
{ : >"$d/out" && : >"$d/err" && : >"$d/fail"; } 2>/dev/null || refuse temp
case $i in
file) exec 3<"$d/in" ;;
inline) exec 3<&0 ;;
*) exec 3</dev/null ;;
esac
umask "$m"
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
n=$(id -un 2>/dev/null)
if [ -z "$HOME" ] && [ -n "$n" ]; then
	eval "HOME=~$n"
	export HOME
fi
s=
command -v setsid >/dev/null 2>&1 && s=setsid
if [ -n "$u" ] && [ "$u" != "$n" ]; then
	id -u "$u" >/dev/null 2>&1 || refuse user
	$s sh -c 'echo "$$" >"$1/pid"; shift; exec "$@"' sh "$d" \
		su -s /bin/sh -c "$inner" -- "$u" sh "" "$w" "$@" <&3 3<&- 4>"$d/fail" >>"$d/out" 2>>"$d/err" &
else
	$s sh -c "$inner" sh "$d/pid" "$w" "$@" <&3 3<&- 4>"$d/fail" >>"$d/out" 2>>"$d/err" &
fi
exec 3<&-
wait "$!"
c=$?
if [ -s "$d/fail" ]; then
	read -r f <"$d/fail"
	refuse "$f"
fi
o=0 e=0
if [ -s "$d/out" ] || [ -s "$d/err" ]; then
	set -- $(wc -c "$d/out" "$d/err")
	o=$1 e=$3
fi
if [ "$o" -gt "$max" ] || [ "$e" -gt "$max" ]; then
	echo "done $c $o $e files"
	exit 0
fi
echo "done $c $o $e inline"
[ "$o" = 0 ] || cat "$d/out"
[ "$e" = 0 ] || cat "$d/err" >&2
rm -rf "$d" >/dev/null 2>&1 </dev/null &
