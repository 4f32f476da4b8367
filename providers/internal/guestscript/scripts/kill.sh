# Kills a command that run.sh runs, with everything it started: kill.sh DIR PID,
# where PID is run.sh itself. All descendants and the members of every session
# that one of them leads are killed, until none is left. Prints gone or left.
d=$1
kill -9 "$2" 2>/dev/null
n=0
while [ ! -s "$d/pid" ] && [ "$n" -lt 10 ]; do
	sleep 0.1 2>/dev/null || sleep 1
	n=$((n + 1))
done
[ -s "$d/pid" ] || { echo gone; exit 0; }
read -r p <"$d/pid"
tree=" $p "
more=1
while [ -n "$more" ]; do
	more=
	for f in /proc/[0-9]*/stat; do
		{ read -r l <"$f"; } 2>/dev/null || continue
		i=${l%% *}
		set -- ${l##*) }
		case $tree in
		*" $i "*) ;;
		*" $2 "*) tree="$tree$i " more=1 ;;
		esac
	done
done
n=0
left=1
while [ -n "$left" ] && [ "$n" -lt 50 ]; do
	[ "$n" = 0 ] || sleep 0.1 2>/dev/null || sleep 1
	n=$((n + 1)) left=
	for f in /proc/[0-9]*/stat; do
		{ read -r l <"$f"; } 2>/dev/null || continue
		i=${l%% *}
		set -- ${l##*) }
		[ "$1" != Z ] || continue
		case $tree in
		*" $i "* | *" $4 "*)
			kill -9 "$i" 2>/dev/null
			left=1
			;;
		esac
	done
done
if [ -z "$left" ]; then echo gone; else echo left; fi
