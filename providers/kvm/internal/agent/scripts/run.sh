# Runs a command, keeps its output in files of a private directory, and reports.
#   run.sh DIR USER STDIN MAX INNER CODED TOKEN TTY CWD NENV [NAME=VALUE...] COMMAND [ARG...]
# STDIN is none, inline (ours is the command's) or fifo (DIR/in, which is fed from
# outside until the process that DIR/hold names is killed). CODED is yes if what
# follows is written for printf %b, because it is no text. The report is one line:
# "refused REASON", or "done EXIT-CODE OUT-BYTES ERR-BYTES inline|files"; with
# inline, which is for at most MAX bytes each, the output itself follows.
# With a TOKEN, the output goes through pipes to files DIR/out.0, DIR/out.1 and so on,
# of which there are never more than three; between the bytes 1, TOKEN, " start" or
# " done" and a newline it is the command's.
# With a TTY, which is "yes" or its ROWS and COLS, the command gets a terminal. What
# follows CODED is then two texts for a shell: INNER, and its arguments from CWD on.
exec 5>&2 2>/dev/null
d=$1 u=$2 i=$3 max=$4 inner=$5 coded=$6 t=$7 tty=$8
shift 8
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
bg=
refuse() {
	[ -z "$bg" ] || kill $bg
	rm -rf "$d"
	echo "refused $1"
	exit 0
}
pump() {
	exec <"$d/$1.p"
	n=0
	while :; do
		while [ -e "$d/$1.$((n - 2))" ]; do
			sleep 0.05 || sleep 1
		done
		dd bs=65536 count=64 of="$d/$1.$n" || break
		[ -s "$d/$1.$n" ] || break
		n=$((n + 1))
	done
}
mkdir "$d" || refuse temp
{ true >"$d/out" && true >"$d/err" && true >"$d/fail"; } || refuse temp
if [ "$i" = fifo ]; then
	command -v mkfifo >/dev/null || refuse mkfifo
	mkfifo "$d/in" || refuse temp
	sleep 1000000000 6>"$d/in" >/dev/null </dev/null 5>&- &
	bg="$bg $!"
	echo "$!" >"$d/hold"
fi
if [ -n "$t" ]; then
	command -v mkfifo >/dev/null || refuse mkfifo
	mkfifo "$d/out.p" "$d/err.p" || refuse temp
	pump out >/dev/null 5>&- &
	bg="$bg $!"
	pump err >/dev/null 5>&- &
	bg="$bg $!"
fi
echo "$bg" >"$d/bg"
case $i in
fifo) exec 3<"$d/in" ;;
inline) exec 3<&0 ;;
*) exec 3</dev/null ;;
esac
if [ -n "$t" ]; then
	exec 7>"$d/out.p" 8>"$d/err.p"
	printf '\001%s start\n' "$t" >&7
	printf '\001%s start\n' "$t" >&8
else
	exec 7>>"$d/out" 8>>"$d/err"
fi
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
if [ -n "$tty" ]; then
	c="sh -c $1 sh '' $2"
	if [ -n "$su" ]; then
		# With -c, the su of util-linux leaves the terminal's session.
		case $(su --help 2>&1) in
		*--session-command*) su=--session-command ;;
		*) su=-c ;;
		esac
		c="su -s /bin/sh $su $1 -- $u sh '' $2"
	fi
	# What is typed to end the command is not for the shell that reports its end.
	c="trap : INT QUIT; tty >'$d/tty'; (exec $c 4>'$d/fail'); echo \$? >'$d/code'"
	[ "$tty" = yes ] || c="stty rows ${tty% *} cols ${tty#* } 2>/dev/null; $c"
	if command -v script >/dev/null; then
		set -- script -q -f -c "$c" /dev/null
	elif command -v python3 >/dev/null; then
		set -- python3 -c 'import pty,sys; pty.spawn(sys.argv[1:])' /bin/sh -c "$c"
	else
		refuse script
	fi
	SHELL=/bin/sh TERM=xterm
	export SHELL TERM
	# In the foreground: a shell lets what it runs beside itself ignore Ctrl-C.
	$s sh -c 'echo "$$" >"$1/pid"; shift; exec "$@"' sh "$d" \
		"$@" <&3 3<&- 5>&- >&7 2>&8 7>&- 8>&-
	c=$?
elif [ -n "$su" ]; then
	$s sh -c 'echo "$$" >"$1/pid"; shift; exec "$@"' sh "$d" \
		su -s /bin/sh -c "$inner" -- "$u" sh "" "$@" <&3 3<&- 5>&- 4>"$d/fail" >&7 2>&8 7>&- 8>&- &
else
	$s sh -c "$inner" sh "$d/pid" "$@" <&3 3<&- 5>&- 4>"$d/fail" >&7 2>&8 7>&- 8>&- &
fi
exec 3<&-
if [ -z "$tty" ]; then
	wait "$!"
	c=$?
fi
[ ! -s "$d/code" ] || read -r c <"$d/code"
if [ -s "$d/fail" ]; then
	read -r f <"$d/fail"
	refuse "$f"
fi
if [ -n "$t" ]; then
	printf '\001%s done\n' "$t" >&7
	printf '\001%s done\n' "$t" >&8
	echo "done $c 0 0 files"
	exit 0
fi
exec 7>&- 8>&-
[ -z "$bg" ] || kill $bg
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
