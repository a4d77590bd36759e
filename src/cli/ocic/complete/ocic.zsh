#compdef ocic
# Completions of ocic for zsh. Put this in a folder of $fpath as `_ocic`, or source it after compinit.

_ocic() {
    local line
    local -a offers
    for line in "${(@f)$("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            :files) _files; return ;;
            # What it is about stands after a colon; colons of its own are escaped.
            *) offers+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    (( $#offers )) && _describe -t ocic ocic offers
}

if [[ $funcstack[1] == _ocic ]]; then
    _ocic "$@"
else
    compdef _ocic ocic
fi
