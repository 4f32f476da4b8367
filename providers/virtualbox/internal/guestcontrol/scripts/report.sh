# Comes first: undoes what got a script here. A report is the byte 1, the token,
# a space, the words and a newline, on both streams: "start", and at the end "done
# EXIT-CODE" or "refused REASON".
unset IFS
set +f
report() {
	printf '\001%s %s\n' "$token" "$1"
	printf '\001%s %s\n' "$token" "$1" >&2
}
refuse() {
	report "refused $1"
	exit 0
}
