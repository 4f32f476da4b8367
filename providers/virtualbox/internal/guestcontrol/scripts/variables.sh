# Comes before the script start when the command is given variables: the first line
# of its input has them, as words for a shell, where \n is a newline and \\ a
# backslash. Leaves them in $vars, and the command's PATH in $path: the last counts.
IFS= read -r vars
vars=$(printf %b "$vars")
eval "set -- $vars"
path=$PATH
for var; do
	case $var in
	PATH=*) path=${var#PATH=} ;;
	esac
done
