/* oxbow completion bash|zsh: a script made of the tables of commands and options. */
#include <stdio.h>
#include <string.h>

#include "cli/cli_int.h"

static void
put_options(struct cli *c, uint64_t opts)
{
    for (unsigned i = 0; i < OPT_COUNT; i++)
        if (opts & CLI_HAS(i))
            clii_printf(c, " --%s", clii_options[i].name);
}

/* The first words, each once. */
static void
put_firsts(struct cli *c)
{
    const char *last = "";

    for (const struct cli_command *k = clii_commands; k->name != NULL; k++) {
        size_t len = strcspn(k->name, " ");

        if (strncmp(last, k->name, len) != 0 || last[len] != ' ')
            clii_printf(c, " %.*s", (int)len, k->name);
        last = k->name;
    }
}

static void
put_cases(struct cli *c)
{
    for (const struct cli_command *k = clii_commands; k->name != NULL; k++) {
        const char *space = strchr(k->name, ' ');
        size_t      len = strcspn(k->name, " ");

        clii_printf(c, space == NULL ? "    '%s '*) offers=\"" : "    '%s') offers=\"", k->name);
        put_options(c, k->opts | CLI_COMMON);
        clii_put_str(c, "\" ;;\n");
        if (space == NULL || (k > clii_commands && strncmp(k[-1].name, k->name, len + 1) == 0))
            continue;
        clii_printf(c, "    '%.*s '*) offers=\"", (int)len, k->name);
        for (const struct cli_command *x = k;
             x->name != NULL && strncmp(x->name, k->name, len + 1) == 0; x++)
            clii_printf(c, " %s", x->name + len + 1);
        clii_put_str(c, "\" ;;\n");
    }
}

/* What can stand after the words so far, for the function that offers it. */
static void
put_words(struct cli *c, const char *first, const char *both)
{
    clii_printf(c, "  if %s; then\n    offers=\"", first);
    put_firsts(c);
    clii_printf(c, "\"\n  else case \"%s\" in\n", both);
    put_cases(c);
    clii_put_str(c, "  esac; fi\n");
}

/* To be sourced, or to stand as _oxbow in a folder of $fpath. */
static void
put_zsh(struct cli *c)
{
    clii_put_str(c, "#compdef oxbow\n_oxbow_words() {\n  local offers=\n");
    put_words(c, "[ \"$1\" = 2 ]", "$2 $3");
    clii_put_str(c, "  compadd -- ${=offers}\n  _files\n}\n"
                    "_oxbow() { _oxbow_words $CURRENT \"$words[2]\" \"$words[3]\" }\n"
                    "if [ \"$funcstack[1]\" = _oxbow ]; then _oxbow \"$@\"; "
                    "else compdef _oxbow oxbow; fi\n");
}

static void
put_bash(struct cli *c)
{
    clii_put_str(c, "_oxbow() {\n"
                    "  local current=${COMP_WORDS[COMP_CWORD]} offers=\n"
                    "  COMPREPLY=()\n");
    put_words(c, "[ \"$COMP_CWORD\" = 1 ]", "${COMP_WORDS[1]} ${COMP_WORDS[2]}");
    clii_put_str(c, "  COMPREPLY=($(compgen -W \"$offers\" -- \"$current\"))\n"
                    "}\n"
                    "complete -o default -F _oxbow oxbow\n");
}

int
clii_completion(struct cli *c, struct err *err)
{
    if (strcmp(c->args[0], "zsh") == 0)
        put_zsh(c);
    else if (strcmp(c->args[0], "bash") == 0)
        put_bash(c);
    else
        RETURN_ERR(err, E_USAGE, ERR_DATA, "completion: %s: must be bash or zsh", c->args[0]);
    return 0;
}
