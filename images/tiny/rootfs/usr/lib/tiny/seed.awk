# Reads the files of a NoCloud seed: meta-data, user-data, network-config, in the subset of YAML that README.md tells.
#
#   awk -v out=DIR -f seed.awk FILE...     writes below DIR, each only if the seed asks for it
#
#   instance-id, hostname, keys            plain text; one ssh key per line
#   runcmd                                 a shell script
#   is-script                              user-data is a program of its own
#   files/N/{path,content,encoding,permissions,owner,append}
#   network/{addresses,gateways,nameservers}
#
# A document becomes a flat table: value["/runcmd/0"] = "echo hello". What is not understood is told on standard error.

BEGIN {
	S = "\001" # between the steps of a path: no key contains it
}

FNR == 1 {
	finish()
	name = FILENAME
	sub(/.*\//, "", name)
	reading = 1
	if (name == "user-data") {
		if ($0 ~ /^#!/) {
			print 1 > (out "/is-script")
			reading = 0
		} else if ($0 !~ /^#cloud-config[ \t\r]*$/) {
			warn("it starts neither with #! nor with #cloud-config, so it is left alone")
			reading = 0
		}
	}
}

reading {
	sub(/\r$/, "")
	line($0)
}

END {
	finish()
}

function warn(text) {
	printf "tiny: seed %s: %s\n", name, text > "/dev/stderr"
}

# The document is over: do what it says and forget it.
function finish() {
	if (block != "") end_block()
	if (name == "meta-data") meta_data()
	if (name == "user-data" && reading) user_data()
	if (name == "network-config") network_config()
	split("", value)
	split("", count)
	split("", order)
	leaves = depth = 0
	at = ""
}

function put(path, text) {
	if (path in value) {
		warn("line " FNR " is not understood")
		return
	}
	value[path] = text
	order[leaves++] = path
}

# The value of a path, as one line: what is written must not become more lines than were asked for.
function one(path,    text) {
	text = value[path]
	gsub(/[\n\r]/, " ", text)
	return text
}

function save(file, text) {
	printf "%s", text > (out "/" file)
	close(out "/" file)
}

# All values below a path that is a list, one per line.
function lines(path,    i, text) {
	text = ""
	for (i = 0; i < leaves; i++) {
		if (index(order[i], path S) == 1 && one(order[i]) != "") text = text one(order[i]) "\n"
	}
	return text
}

# --- what the documents say ------------------------------------------------------------------------------------------

function meta_data() {
	if (one(S "instance-id") != "") save("instance-id", one(S "instance-id") "\n")
	if (one(S "local-hostname") != "") hostname(one(S "local-hostname"))
	keys = keys lines(S "public-keys")
	save("keys", keys)
}

function hostname(text) {
	if (text ~ /^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$/ && length(text) <= 64) save("hostname", text "\n")
	else warn("the host name " text " is not a host name")
}

function user_data(    i, step, known) {
	if (one(S "hostname") != "") hostname(one(S "hostname"))
	keys = keys lines(S "ssh_authorized_keys")
	save("keys", keys)
	save_commands()
	save_files()
	for (i = 0; i < leaves; i++) {
		split(order[i], step, S)
		if (step[2] ~ /^(hostname|ssh_authorized_keys|runcmd|write_files)$/ || known[step[2]]++) continue
		if (one(order[i]) !~ /^(false|null|~)?$/) warn(step[2] " is not supported and left out")
	}
}

# Commands become a shell script, as cloud-init does it: a text is a line of shell, a list is a command and its
# arguments.
function save_commands(    i, step, script, word, last) {
	script = ""
	last = ""
	for (i = 0; i < leaves; i++) {
		if (index(order[i], S "runcmd" S) != 1) continue
		split(order[i], step, S)
		if (4 in step && step[4] !~ /^[0-9]+$/) {
			warn("the command \"" step[4] ": ...\" is a mapping in YAML: quote it")
			continue
		}
		if (4 in step) {
			word = value[order[i]]
			gsub(/'/, "'\\''", word)
			script = script (step[3] == last ? " " : "\n") "'" word "'"
		} else script = script "\n" value[order[i]]
		last = step[3]
	}
	if (script != "") save("runcmd", "#!/bin/sh" script "\n")
}

function save_files(    i, item, n, field, fields) {
	n = split("path encoding permissions owner", fields, " ")
	for (i = 0; (item = S "write_files" S i) S "path" in value; i++) {
		if (one(item S "path") !~ /^\//) {
			warn("the file " one(item S "path") " has no absolute path and is left out")
			continue
		}
		system("mkdir -p " out "/files/" i)
		for (field = 1; field <= n; field++) {
			if (one(item S fields[field]) != "") save("files/" i "/" fields[field], one(item S fields[field]) "\n")
		}
		if (one(item S "append") == "true") save("files/" i "/append", "true\n")
		save("files/" i "/content", value[item S "content"])
	}
}

# Only the form for one network card is honoured: fixed addresses instead of DHCP.
function network_config(    i, text, to, addresses, gateway, nameservers) {
	for (i = 0; i < leaves; i++) {
		text = order[i]
		if (text ~ (S "addresses" S "[0-9]+$") && text !~ (S "nameservers" S)) addresses = addresses one(text) "\n"
		if (text ~ (S "nameservers" S "addresses" S)) nameservers = nameservers "nameserver " one(text) "\n"
		if (text ~ (S "gateway[46]$")) gateway = gateway one(text) "\n"
		if (text ~ (S "via$")) {
			to = text
			sub(/via$/, "to", to)
			if (value[to] ~ /^(default|0\.0\.0\.0\/0|::\/0)$/) gateway = gateway one(text) "\n"
			else warn("the route to " one(to) " is not supported and left out")
		}
	}
	if (addresses == "") return
	system("mkdir -p " out "/network")
	save("network/addresses", addresses)
	save("network/gateways", gateway)
	save("network/nameservers", nameservers)
}


# --- block structure -------------------------------------------------------------------------------------------------
# A stack of open containers: column[d], kind[d] "map" or "seq", base[d] its path. `at` is the path of the newest
# child, where a value or a deeper container goes.

function line(text,    indent, rest, key, len) {
	match(text, /^ */)
	indent = RLENGTH
	rest = substr(text, indent + 1)
	if (block != "") {
		if (rest == "" || indent > block_parent) {
			block_lines[block_n++] = text
			return
		}
		end_block()
	}
	if (rest == "" || rest ~ /^#/ || (indent == 0 && rest ~ /^(---|\.\.\.)/)) return
	if (rest ~ /^\t/) {
		warn("line " FNR " is indented with a tab, which is not YAML")
		return
	}
	while (rest == "-" || rest ~ /^- /) {
		open(indent, "seq")
		at = base[depth] S (count[base[depth]]++ + 0)
		match(rest, /^- */)
		parent = indent
		indent += RLENGTH
		rest = substr(rest, RLENGTH + 1)
	}
	if (rest == "" || rest ~ /^#/) return
	len = key_length(rest)
	if (len) {
		open(indent, "map")
		parent = indent
		key = substr(rest, 1, len)
		sub(/[ ]*:$/, "", key)
		at = base[depth] S scalar(key)
		rest = substr(rest, len + 1)
		sub(/^ */, "", rest)
	}
	if (rest == "" || rest ~ /^#/) return
	if (rest ~ /^[|>][-+]?[ ]*(#.*)?$/) {
		block = at
		block_style = substr(rest, 1, 2)
		block_parent = parent
		block_n = 0
	} else {
		rest = flow(rest, at)
		if (rest !~ /^ *(#.*)?$/) warn("line " FNR " is not understood from here on: " rest)
	}
}

# Makes the container of the given kind at the given column the innermost open one. A list may stand at the column of
# the key that it belongs to.
function open(col, k) {
	while (depth && (column[depth] > col || (column[depth] == col && kind[depth] == "seq" && k == "map"))) depth--
	if (depth && column[depth] == col && kind[depth] == k) return
	depth++
	column[depth] = col
	kind[depth] = k
	base[depth] = at
}

# A literal (|) or folded (>) block has ended: its indentation is that of its first line that is not empty.
function end_block(    i, text, cut, joint) {
	for (i = 0; i < block_n && block_lines[i] ~ /^ *$/; i++);
	match(block_lines[i], /^ */)
	cut = RLENGTH
	while (block_n && block_lines[block_n - 1] ~ /^ *$/) block_n--
	joint = block_style ~ /^>/ ? " " : "\n"
	text = ""
	for (i = 0; i < block_n; i++) text = text (i ? joint : "") substr(block_lines[i], cut + 1)
	put(block, text (block_style ~ /-$/ || text == "" ? "" : "\n"))
	block = ""
}

# --- values on one line ----------------------------------------------------------------------------------------------

# How long the key at the start of the text is, with its colon; 0 if there is none.
function key_length(text) {
	if (match(text, /^("[^"]*"|'[^']*') *:( |$)/) || match(text, /^[^][{}"'#&*!|>%@` ,-][^#:]*:( |$)/)) {
		match(substr(text, 1, RLENGTH), /: ?$/)
		return RSTART
	}
	return 0
}

# Reads one value at the start of the text, puts it (and what it contains) at the path and returns the rest.
function flow(text, path,    n, len, key) {
	if (text ~ /^\[/) {
		text = skip(substr(text, 2))
		while (text != "" && text !~ /^]/) {
			text = skip(inner(text, path S (n++ + 0)))
			if (text ~ /^,/) text = skip(substr(text, 2))
			else if (text !~ /^]/) return "[" text
		}
		return text == "" ? "[" : substr(text, 2)
	}
	if (text ~ /^\{/) {
		text = skip(substr(text, 2))
		while (text != "" && text !~ /^}/) {
			len = quoted(text)
			if (len) key = substr(text, 1, len)
			else {
				match(text, /^[^:,{}]*/)
				len = RLENGTH
				key = substr(text, 1, len)
			}
			text = skip(substr(text, len + 1))
			if (text !~ /^:/) return "{" text
			text = skip(inner(skip(substr(text, 2)), path S scalar(key)))
			if (text ~ /^,/) text = skip(substr(text, 2))
			else if (text !~ /^}/) return "{" text
		}
		return text == "" ? "{" : substr(text, 2)
	}
	len = quoted(text)
	if (!len) {
		if (text ~ /^[&*!@`%]/) return text
		len = match(text, / +#/) ? RSTART - 1 : length(text)
	}
	put(path, scalar(substr(text, 1, len)))
	return substr(text, len + 1)
}

# As flow, for a value inside brackets or braces, where an unquoted one ends earlier.
function inner(text, path) {
	if (text ~ /^[[{]/ || quoted(text)) return flow(text, path)
	match(text, /^[^][{},]*/)
	put(path, scalar(substr(text, 1, RLENGTH)))
	return substr(text, RLENGTH + 1)
}

function skip(text) {
	sub(/^ */, "", text)
	return text
}

# How long the quoted value at the start of the text is; 0 if there is none.
function quoted(text) {
	if (match(text, /^"([^"\\]|\\.)*"/) || match(text, /^'([^']|'')*'/)) return RLENGTH
	return 0
}

function scalar(text,    out_text, i, c) {
	sub(/ *$/, "", text)
	if (text ~ /^'.*'$/) {
		text = substr(text, 2, length(text) - 2)
		gsub(/''/, "'", text)
		return text
	}
	if (text !~ /^".*"$/) return text
	text = substr(text, 2, length(text) - 2)
	out_text = ""
	while (i = index(text, "\\")) {
		c = substr(text, i + 1, 1)
		out_text = out_text substr(text, 1, i - 1) (c == "n" ? "\n" : c == "t" ? "\t" : c == "r" ? "\r" : c == "0" ? "" : c)
		text = substr(text, i + 2)
	}
	return out_text text
}
