# Runs the script that was copied to $file at a terminal, whose keys are
# what the pump passes on.
if command -v script >/dev/null; then
	set -- script -q -f -c "exec /bin/sh $file" /dev/null
elif command -v python3 >/dev/null; then
	set -- python3 -c 'import pty,sys; pty.spawn(sys.argv[1:])' /bin/sh "$file"
else
	rm -f "$file"
	echo script >"$d/fail"
	over 0
fi
SHELL=/bin/sh TERM=xterm
export SHELL TERM
report start
# In the foreground: a shell lets what it runs beside itself ignore Ctrl-C.
"$@" <&6 6<&- 2>&1
c=$?
[ ! -s "$d/code" ] || read -r c <"$d/code"
over "$c"
