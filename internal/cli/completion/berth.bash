# bash completion for berth, and for docker where that is an alias of it.

_berth() {
	local line=${COMP_LINE:0:COMP_POINT} word words=() candidate then=:0
	# COMP_WORDS are split at ":" and "=", too; what stands together on the line is one word.
	local i glued
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		glued=yes
		while [[ $line == [[:space:]]* ]]; do
			line=${line#?}
			glued=
		done
		line=${line#"$word"}
		if [[ -n $glued && ${#words[@]} -gt 0 ]]; then
			words[${#words[@]} - 1]+=$word
		else
			words+=("$word")
		fi
	done
	COMPREPLY=()
	local current=${words[${#words[@]} - 1]}
	# readline replaces what comes after the last of its separators alone.
	local cut=
	[[ $COMP_WORDBREAKS == *:* && $current == *:* ]] && cut=${current%"${current##*:}"}
	[[ $COMP_WORDBREAKS == *=* && $current == *=* && ${#cut} -eq 0 ]] && cut=${current%%=*}=
	while IFS= read -r candidate; do
		case $candidate in
		:?) then=$candidate ;;
		*)
			candidate=${candidate%%$'\t'*}
			COMPREPLY+=("${candidate#"$cut"}")
			;;
		esac
	done < <(berth __complete -- "${words[@]:1}" 2>/dev/null)
	case $then in
	:0) [[ ${#COMPREPLY[@]} -eq 0 ]] && compopt +o default 2>/dev/null ;;
	:1) compopt -o default 2>/dev/null ;;
	:2) compopt -o nospace 2>/dev/null ;;
	esac
}

complete -F _berth berth
if [[ ${BASH_ALIASES[docker]} == berth || ${BASH_ALIASES[docker]} == */berth ]]; then
	complete -F _berth docker
fi
