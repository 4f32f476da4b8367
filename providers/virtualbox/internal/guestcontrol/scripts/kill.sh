# Kills a command that is attached to its caller still, with everything that it
# started: kill.sh PATTERN, which the arguments of its shell match and ours do
# not. That shell is stopped first, so that it starts nothing more. Then all
# descendants and the members of every session that one of them leads are killed,
# until none is left. Prints gone or left.
tree=' '
for f in $(grep -l "$1" /proc/[0-9]*/cmdline 2>/dev/null); do
	f=${f#/proc/}
	kill -STOP "${f%/*}" 2>/dev/null && tree="$tree${f%/*} "
done
[ "$tree" != ' ' ] || { echo gone; exit 0; }
n=0
left=1
while [ -n "$left" ] && [ "$n" -lt 50 ]; do
	[ "$n" -lt 2 ] || sleep 0.1 2>/dev/null || sleep 1
	n=$((n + 1)) left= more=1
	# Each process but the kernel's own, which are in no session, by its PID,
	# state, parent and session. A name may have any character in it.
	stats=$(cat /proc/[0-9]*/stat 2>/dev/null | awk -F ')' '{
		split($1, name, " ")
		split($NF, f, " ")
		if (f[4] > 0) print name[1], f[1], f[2], f[4]
	}')
	while [ -n "$more" ]; do
		more=
		set -- $stats
		while [ "$#" -ge 4 ]; do
			case $2$tree in
			[ZX]*) ;;
			*" $1 "*) left=1 ;;
			*" $3 "* | *" $4 "*) tree="$tree$1 " more=1 ;;
			esac
			shift 4
		done
	done
	for i in $tree; do
		kill -9 "$i" 2>/dev/null
	done
done
if [ -z "$left" ]; then echo gone; else echo left; fi
