//! The scripts of the shells: clap's for commands and flags, with a call of `aerostack __complete` for names.

use clap::Command;
use clap_complete::Shell;

/// A function that takes the names for the word at the cursor, and otherwise does what clap's function does.
///
/// Bash splits a word at `:` and `=`, so that `a:1` is three words. The function joins what no white space of the line separates,
/// and takes from each answer the part before the cursor's own word, because Bash replaces only that word.
///
/// All scripts call `aerostack` of the search path, and not the first word of the line, which may name any program.
const BASH: &str = r#"
_aerostack_with_names() {
    local word gap last='' rest=$COMP_LINE count=0 joined=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        gap=${rest%%[![:space:]]*}
        rest=${rest#"$gap"}
        rest=${rest#*"$word"}
        if [[ $count -gt 0 && -z $gap && ( $word == [:=]* || $last == [:=]* ) ]]; then
            joined[count - 1]+=$word
        else
            joined[count]=$word
            count=$((count + 1))
        fi
        last=$word
    done
    [[ $last != [:=]* ]] || last=
    local name before=${joined[count - 1]%"$last"}
    COMPREPLY=()
    while IFS= read -r name; do
        COMPREPLY+=("${name#"$before"}")
    done < <(printf '%s\0' "${joined[@]:1}" | command aerostack __complete 2>/dev/null)
    [[ ${#COMPREPLY[@]} -gt 0 ]] || _aerostack "$@"
}
complete -F _aerostack_with_names -o bashdefault -o default aerostack
"#;

/// The action of an argument in clap's script for zsh, of which the script leaves the completion to zsh.
const ZSH_ACTION: &str = ":_default'";
const ZSH_ACTION_WITH_NAMES: &str = ":_aerostack_names'";

/// The beginning of clap's function for zsh. Below a subcommand `words` lacks the words before it, so they are kept.
const ZSH_FUNCTION: &str = "_aerostack() {\n";
const ZSH_FUNCTION_WITH_WORDS: &str = r#"_aerostack_names() {
    local -a names
    names=("${(@f)$(printf '%s\0' "${(@)line_words[2,-1]}" | command aerostack __complete 2>/dev/null)}")
    if [[ -n "$names" ]]; then
        compadd -QU -a names
    else
        _default
    fi
}

_aerostack() {
    local -a line_words
    line_words=("${(@)words[1,CURRENT]}")
"#;

/// The value of a flag is a place of its own in fish, whose completions are listed with the flag.
const FISH: &str = r#"
function __aerostack_names
    set -l words (commandline -opc) (commandline -ct)
    printf '%s\0' $words[2..-1] | command aerostack __complete 2>/dev/null
end
function __aerostack_has_names
    set -g __aerostack_found (__aerostack_names)
    test (count $__aerostack_found) -gt 0
end
function __aerostack_names_of_flag
    __aerostack_names | string replace -r -- '^--[^=]*=' ''
end
complete -c aerostack -f -n __aerostack_has_names -a '$__aerostack_found'
for flag in context secrets required tls-client-cert-secret
    complete -c aerostack -l $flag -x -a '(__aerostack_names_of_flag)'
end
"#;

/// Returns the script for `aerostack`, the whole command line.
pub(crate) fn script(shell: Shell, mut aerostack: Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut aerostack, "aerostack", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + BASH,
        Shell::Zsh => script.replace(ZSH_ACTION, ZSH_ACTION_WITH_NAMES).replacen(
            ZSH_FUNCTION,
            ZSH_FUNCTION_WITH_WORDS,
            1,
        ),
        Shell::Fish => script + FISH,
        // The other shells complete commands and flags only.
        _ => script,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::Cli;

    #[test]
    fn the_scripts_of_three_shells_ask_for_names() {
        for (shell, asks) in [
            (Shell::Bash, true),
            (Shell::Zsh, true),
            (Shell::Fish, true),
            (Shell::Elvish, false),
        ] {
            let script = script(shell, Cli::command());
            assert_eq!(script.contains("__complete 2>/dev/null"), asks, "{shell}");
        }
        let zsh = script(Shell::Zsh, Cli::command());
        assert!(zsh.contains("line_words=(") && zsh.contains("The workspace:_aerostack_names'"));
    }
}
