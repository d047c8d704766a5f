/* Between the files of src/env only: what the table of env_real.c is filled with. */
#ifndef OX_ENV_ENV_REAL_INT_H
#define OX_ENV_ENV_REAL_INT_H

#include "base/env.h"

int
envi_file_open(struct ox_env *, const char *path, unsigned flags, struct ox_file **, struct err *);
void envi_file_close(struct ox_env *, struct ox_file *);
int  envi_file_read(struct ox_env *, struct ox_file *, void *out, size_t len, uint64_t at,
                    size_t *got, struct err *);
int  envi_file_write(struct ox_env *, struct ox_file *, const void *data, size_t len, uint64_t at,
                     struct err *);
int  envi_file_sync(struct ox_env *, struct ox_file *, struct err *);
int  envi_file_start(struct ox_env *, struct ox_file *, uint64_t at, uint64_t len, struct err *);
int  envi_file_size(struct ox_env *, struct ox_file *, uint64_t *, struct err *);
int  envi_file_resize(struct ox_env *, struct ox_file *, uint64_t size, struct err *);
int  envi_file_map(struct ox_env *, struct ox_file *, size_t len, const uint8_t **, struct err *);
void envi_file_unmap(struct ox_env *, const uint8_t *, size_t len);
int  envi_file_lock(struct ox_env *, struct ox_file *, struct err *);
int  envi_dir_make(struct ox_env *, const char *path, struct err *);
int  envi_dir_list(struct ox_env *, const char *path, env_dir_fn *, void *arg, struct err *);
int  envi_dir_sync(struct ox_env *, const char *path, struct err *);
int  envi_path_rename(struct ox_env *, const char *from, const char *to, struct err *);
int  envi_path_remove(struct ox_env *, const char *path, struct err *);
int  envi_disk_free(struct ox_env *, const char *path, uint64_t *bytes, struct err *);

/* E_NOMEM, E_NOSPC, …: with the text "PATH: WHAT: strerror". */
int envi_fail(struct err *err, const char *path, const char *what, int errnum);

#endif
