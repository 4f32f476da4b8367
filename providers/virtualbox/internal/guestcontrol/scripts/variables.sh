# Comes before the script start when the command is given variables, which are in
# $vars as words for a shell. Leaves the command's PATH in $path: the last counts.
eval "set -- $vars"
path=$PATH
for var; do
	case $var in
	PATH=*) path=${var#PATH=} ;;
	esac
done
