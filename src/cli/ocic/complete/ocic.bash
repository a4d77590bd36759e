# Completions of ocic for bash. Source this, or put it in the folder of completions as `ocic`.

_ocic() {
    local line=${COMP_LINE:0:COMP_POINT} candidate cut
    local -a words
    read -ra words <<<"$line"
    # After white space another word begins.
    [[ $line == *[[:space:]] ]] && words+=('')
    local typed=${words[-1]}
    COMPREPLY=()
    # What bash takes for the start of another word stays as it is.
    cut=''
    for break in : =; do
        if [[ $COMP_WORDBREAKS == *$break* && $typed == *$break* ]]; then
            local until=${typed%"${typed##*$break}"}
            ((${#until} > ${#cut})) && cut=$until
        fi
    done
    while IFS=$'\t' read -r candidate _; do
        if [[ $candidate == :files ]]; then
            compopt -o default 2>/dev/null
            COMPREPLY=()
            return
        fi
        COMPREPLY+=("${candidate#"$cut"}")
    done < <("${words[0]}" __complete -- "${words[@]:1}" 2>/dev/null)
}
complete -F _ocic ocic
