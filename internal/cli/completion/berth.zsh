#compdef berth
# zsh completion for berth. In a directory of fpath it is named _berth; it may be read with source, too.

_berth() {
	local line then=:0
	local -a answers described
	answers=("${(@f)$(berth __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
	for line in $answers; do
		case $line in
		:?) then=$line ;;
		*$'\t') described+=("${${line%%$'\t'*}//:/\\:}") ;;
		*) described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		esac
	done
	case $then in
	:1)
		(( $#described )) && _describe -V 'berth' described
		_files
		;;
	:2) _describe -V 'berth' described -S '' ;;
	*) _describe -V 'berth' described ;;
	esac
}

if [ "$funcstack[1]" = _berth ]; then
	_berth "$@"
elif (( $+functions[compdef] )); then
	compdef _berth berth
fi
