/* upcasters of the configuration: compiled, for the server and for a folder's reads. */
#include "base/conf.h"
#include "cli/engine_int.h"
#include "core/upcast.h"

int
enginei_upcasts(const struct conf *root, struct upcasts **out, struct err *err)
{
    const struct transform_opts opts = {.name = "upcasters", .read_file = enginei_read_file};
    struct upcasts             *set = NULL;
    struct transform           *transform = NULL;
    int                         rc;

    *out = NULL;
    TRY(upcast_set_new(&set, err));
    for (const struct conf *x = conf_first(conf_child(root, "upcasters")); x != NULL;
         x = conf_next(x)) {
        TRY(transform_from_conf(conf_child(x, "transform"), &opts, &transform, err));
        TRY(upcast_set_add(set, conf_key(x), conf_str(x, "category"), conf_str(x, "type"),
                           &transform, err));
    }
    *out = set;
    set = NULL;
out:
    upcast_set_free(set);
    return rc;
}
