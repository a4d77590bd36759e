# Completions of ocic for fish. Put this in ~/.config/fish/completions as `ocic.fish`.

function __ocic_offers
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l offers ($words[1] __complete -- $words[2..-1] "$typed" 2>/dev/null)
    if test "$offers[1]" = :files
        __fish_complete_path "$typed"
    else
        printf '%s\n' $offers
    end
end

complete -c ocic -f -a '(__ocic_offers)'
