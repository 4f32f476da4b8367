# Reads variables into $vars: the first line of the input has them, as words for a
# shell, where \n is a newline and \\ a backslash.
IFS= read -r vars
vars=$(printf %b "$vars")
