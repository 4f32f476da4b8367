# Passes input on to a command while it runs: what arrives in the files in.0 and in.1
# of the directory $d, by turns, goes to the pipe $d/in. The first line of a piece is
# its number and how many bytes follow, or "end". Reports "took NUMBER" when the command
# has taken a piece, or nearly so.
pump() {
	exec >/dev/null 8<>"$d/nap" 9>"$d/in"
	# Where the shell itself can wait, looking costs no process.
	(read -r -t 0.01 l <&8) 2>/dev/null
	[ "$?" -gt 128 ] && own=yes || own=
	n=0 looks=0
	while :; do
		piece=$d/in.$((n % 2))
		if [ -s "$piece" ] && read -r k l <"$piece" && [ "$k" = "$n" ] && whole; then
			[ "$l" != end ] || exit 0
			{ read -r k && cat; } <"$piece" >&9 2>/dev/null || exit 0
			: >"$piece"
			printf '\001%s took %s\n' "$token" "$n" >&2
			n=$((n + 1)) looks=0
			continue
		fi
		if ! kill -0 "$$" 2>/dev/null; then
			rm -rf "$d" "$file"
			exit 0
		fi
		looks=$((looks + 1))
		[ "$looks" -gt 100 ] && pause=0.4 || pause=0.1
		if [ -n "$own" ]; then
			read -r -t "$pause" l <&8
		else
			sleep "$pause" || sleep 1
		fi 2>/dev/null
	done
}
# whole tells whether a piece has arrived to its end: a short one does at once.
whole() {
	[ "$l" = end ] || [ "$l" -le 2000 ] || [ "$(($(wc -c <"$piece") - ${#k} - ${#l} - 2))" -ge "$l" ]
}
m=$(umask)
umask 077
if ! { mkdir "$d" && mkfifo "$d/in" "$d/nap" && : >"$d/fail"; } 2>/dev/null; then
	rm -rf "$d" "$file"
	command -v mkfifo >/dev/null || refuse mkfifo
	refuse temp
fi
umask "$m"
pump </dev/null &
pump=$!
exec 6<"$d/in"
# over reports the end of the command.
over() {
	kill "$pump" 2>/dev/null
	f=
	[ ! -s "$d/fail" ] || read -r f <"$d/fail"
	rm -rf "$d"
	[ -z "$f" ] || refuse "$f"
	report "done $1"
	exit 0
}
