# Replaces a file: put.sh VERB PATH TEMP MODE. begin makes TEMP beside PATH, end
# puts it in PATH's place, all does both with our input as the content, and abort
# removes TEMP.
exec 2>/dev/null
p=$2 t=$3
begin() {
	[ ! -d "$p" ] || { echo directory; exit 0; }
	d=${p%/*}
	[ -d "${d:-/}" ] || { echo missing; exit 0; }
	umask 077
	true >"$t" || { echo denied; exit 0; }
}
end() {
	if chmod "$1" "$t" && [ ! -d "$p" ] && mv -f "$t" "$p"; then echo ok; else rm -f "$t"; echo denied; fi
}
case $1 in
begin) begin && echo ok ;;
end) end "$4" ;;
all) begin; if cat >"$t"; then end "$4"; else rm -f "$t"; echo full; fi ;;
abort) rm -f "$t"; echo ok ;;
esac
