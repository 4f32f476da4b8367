# Runs a command, keeps its output in files of a private directory, and reports.
#   run.sh DIR USER STDIN MAX INNER CODED CWD NENV [NAME=VALUE...] COMMAND [ARG...]
# STDIN is none, inline (ours is the command's) or file (DIR/in). CODED is yes if
# what follows is written for printf %b, because it is no text. The report is one
# line: "refused REASON", or "done EXIT-CODE OUT-BYTES ERR-BYTES inline|files";
# with inline, which is for at most MAX bytes each, the output itself follows.
exec 5>&2 2>/dev/null
d=$1 u=$2 i=$3 max=$4 inner=$5 coded=$6
shift 6
if [ "$coded" = yes ]; then
	n=$#
	while [ "$n" -gt 0 ]; do
		a=$(printf '%b.' "$1")
		shift
		set -- "$@" "${a%.}"
		n=$((n - 1))
	done
fi
m=$(umask)
umask 077
refuse() {
	rm -rf "$d"
	echo "refused $1"
	exit 0
}
[ "$i" = file ] || mkdir "$d" || refuse temp
{ true >"$d/out" && true >"$d/err" && true >"$d/fail"; } || refuse temp
case $i in
file) exec 3<"$d/in" ;;
inline) exec 3<&0 ;;
*) exec 3</dev/null ;;
esac
umask "$m"
: "${PATH:=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
export PATH
n=
if [ -n "$u" ] || [ "${HOME:-/}" = / ]; then
	n=$(id -un)
fi
if [ -n "$u" ] && [ "$u" != "$n" ]; then
	id -u "$u" >/dev/null || refuse user
	su=su
elif [ -n "$n" ] && { [ -n "$u" ] || [ "${HOME:-/}" = / ]; }; then
	eval "HOME=~$n" # an agent started by init has init's home
	USER=$n LOGNAME=$n
	export HOME USER LOGNAME
fi
s=
command -v setsid >/dev/null && s=setsid
if [ -n "$su" ]; then
	$s sh -c 'echo "$$" >"$1/pid"; shift; exec "$@"' sh "$d" \
		su -s /bin/sh -c "$inner" -- "$u" sh "" "$@" <&3 3<&- 5>&- 4>"$d/fail" >>"$d/out" 2>>"$d/err" &
else
	$s sh -c "$inner" sh "$d/pid" "$@" <&3 3<&- 5>&- 4>"$d/fail" >>"$d/out" 2>>"$d/err" &
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
[ "$e" = 0 ] || cat "$d/err" >&5
rm -rf "$d" >/dev/null 5>&- &
