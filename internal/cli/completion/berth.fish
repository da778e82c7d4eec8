# fish completion for berth.

function __berth_complete
    set -l words (commandline -opc)
    set -l answers (command berth __complete -- $words[2..-1] (commandline -ct) 2>/dev/null)
    set -l last $answers[-1]
    for line in $answers[1..-2]
        echo -- $line
    end
    if test "$last" = :1
        __fish_complete_path (commandline -ct)
    end
end

complete -c berth -f -a '(__berth_complete)'
