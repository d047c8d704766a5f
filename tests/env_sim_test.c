/* The simulated world does to the engine what a real one may, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "sim/env_sim.h"

#define SEEDS 200

struct world {
    struct sim    *sim;
    struct ox_env *env;
    struct err     err;
};

static void
begin(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->sim = sim_new(seed);
    w->env = sim_env(w->sim);
    assert_int_equal(w->env->ops->dir_make(w->env, "/d", &w->err), 0);
    assert_int_equal(w->env->ops->dir_sync(w->env, "/", &w->err), 0);
}

static void
end(struct world *w)
{
    assert_int_equal(sim_open_files(w->sim), 0);
    assert_int_equal(sim_open_maps(w->sim), 0);
    assert_int_equal(sim_tasks(w->sim), 0);
    sim_free(w->sim);
}

static struct ox_file *
open_file(struct world *w, const char *path, unsigned flags)
{
    struct ox_file *file = NULL;

    assert_int_equal(w->env->ops->file_open(w->env, path, flags, &file, &w->err), 0);
    return file;
}

static struct ox_file *
create(struct world *w, const char *path)
{
    return open_file(w, path, ENV_WRITE | ENV_CREATE);
}

static void
fill(struct world *w, struct ox_file *file, uint8_t byte, size_t len, uint64_t at)
{
    uint8_t data[8192];

    assert_true(len <= sizeof data);
    memset(data, byte, len);
    assert_int_equal(w->env->ops->file_write(w->env, file, data, len, at, &w->err), 0);
}

static void
sync_file(struct world *w, struct ox_file *file)
{
    assert_int_equal(w->env->ops->file_sync(w->env, file, &w->err), 0);
}

static void
sync_dir(struct world *w)
{
    assert_int_equal(w->env->ops->dir_sync(w->env, "/d", &w->err), 0);
}

static void
cut_power(struct world *w, struct ox_file *file, enum sim_loss loss)
{
    sim_crash(w->sim);
    w->env->ops->file_close(w->env, file);
    sim_reboot(w->sim, loss);
}

static const uint8_t *
bytes(struct world *w, const char *path, uint64_t size)
{
    uint64_t       got;
    const uint8_t *data = sim_file_bytes(w->sim, path, &got);

    assert_non_null(data);
    assert_int_equal(got, size);
    return data;
}

static bool
is_there(struct world *w, const char *path)
{
    uint64_t size;

    return sim_file_bytes(w->sim, path, &size) != NULL;
}

static bool
all(const uint8_t *data, size_t len, uint8_t byte)
{
    for (size_t i = 0; i < len; i++)
        if (data[i] != byte)
            return false;
    return true;
}

static void
keeps_what_was_synced(void **state)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 1, 3000, 0);
        sync_file(&w, file);
        sync_dir(&w);
        fill(&w, file, 2, 1000, 1500);
        cut_power(&w, file, SIM_LOSS_RANDOM);
        assert_true(all(bytes(&w, "/d/a", 3000), 1500, 1));
        assert_true(all(bytes(&w, "/d/a", 3000) + 2500, 500, 1));
        end(&w);
    }
    (void)state;
}

static void
loses_what_was_not(void **state)
{
    struct world    w;
    struct ox_file *file;

    begin(&w, 1);
    file = create(&w, "/d/a");
    fill(&w, file, 1, 3000, 0);
    sync_file(&w, file);
    sync_dir(&w);
    fill(&w, file, 2, 8000, 0);
    w.env->ops->file_close(w.env, file); /* closing is not a sync */
    cut_power(&w, NULL, SIM_LOSS_ALL);
    assert_true(all(bytes(&w, "/d/a", 3000), 3000, 1));
    end(&w);
    (void)state;
}

static void
end_of_a_process_keeps_all(void **state)
{
    struct world    w;
    struct ox_file *file;

    begin(&w, 1);
    file = create(&w, "/d/a");
    fill(&w, file, 1, 3000, 0);
    cut_power(&w, file, SIM_LOSS_NONE);
    assert_true(all(bytes(&w, "/d/a", 3000), 3000, 1));
    end(&w);
    (void)state;
}

/* One write of 16 sectors: whole, gone, torn at a sector, torn within one. */
static void
tears(void **state)
{
    unsigned whole = 0, gone = 0, sectors = 0, within = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;
        const uint8_t  *data;
        bool            torn = false;
        size_t          kept = 0;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 1, 8192, 0);
        sync_file(&w, file);
        sync_dir(&w);
        fill(&w, file, 2, 8192, 0);
        cut_power(&w, file, SIM_LOSS_RANDOM);
        data = bytes(&w, "/d/a", 8192);
        for (size_t i = 0; i < 8192; i += 512) {
            if (all(data + i, 512, 2))
                kept++;
            else if (!all(data + i, 512, 1))
                torn = true;
        }
        whole += kept == 16;
        gone += kept == 0 && !torn;
        sectors += kept > 0 && kept < 16;
        within += torn;
        end(&w);
    }
    assert_true(whole > 0);
    assert_true(gone > 0);
    assert_true(sectors > 0);
    assert_true(within > 0);
    (void)state;
}

/* Of two writes to different places the later may be there without the earlier. */
static void
reorders(void **state)
{
    unsigned later_only = 0, earlier_only = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;
        const uint8_t  *data;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 0, 8192, 0);
        sync_file(&w, file);
        sync_dir(&w);
        fill(&w, file, 1, 512, 0);
        fill(&w, file, 2, 512, 4096);
        cut_power(&w, file, SIM_LOSS_RANDOM);
        data = bytes(&w, "/d/a", 8192);
        earlier_only += all(data, 512, 1) && all(data + 4096, 512, 0);
        later_only += all(data, 512, 0) && all(data + 4096, 512, 2);
        end(&w);
    }
    assert_true(later_only > 0);
    assert_true(earlier_only > 0);
    (void)state;
}

/* Of two writes to the same place the stored one may be the earlier, never a third thing. */
static void
keeps_versions_in_order(void **state)
{
    unsigned seen[3] = {0, 0, 0};

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;
        const uint8_t  *data;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 0, 512, 0);
        sync_file(&w, file);
        sync_dir(&w);
        fill(&w, file, 1, 512, 0);
        fill(&w, file, 2, 512, 0);
        cut_power(&w, file, SIM_LOSS_RANDOM);
        data = bytes(&w, "/d/a", 512);
        for (uint8_t v = 0; v < 3; v++)
            seen[v] += all(data, 512, v);
        for (size_t i = 0; i < 512; i++)
            assert_true(data[i] <= 2);
        end(&w);
    }
    assert_true(seen[0] > 0);
    assert_true(seen[1] > 0);
    assert_true(seen[2] > 0);
    (void)state;
}

/* A file that grew may come back short, or with zeros, never with anything else. */
static void
grown_files_come_back_short_or_zero(void **state)
{
    unsigned shorter = 0, zeros = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;
        const uint8_t  *data;
        uint64_t        size;

        begin(&w, seed);
        file = create(&w, "/d/a");
        sync_dir(&w);
        fill(&w, file, 7, 4096, 0);
        cut_power(&w, file, SIM_LOSS_RANDOM);
        data = sim_file_bytes(w.sim, "/d/a", &size);
        assert_non_null(data);
        assert_true(size <= 4096);
        shorter += size < 4096;
        zeros += size == 4096 && all(data, 512, 0);
        for (uint64_t i = 0; i < size; i++)
            assert_true(data[i] == 0 || data[i] == 7);
        end(&w);
    }
    assert_true(shorter > 0);
    assert_true(zeros > 0);
    (void)state;
}

static void
names_need_a_sync_of_their_folder(void **state)
{
    unsigned there = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 1, 100, 0);
        sync_file(&w, file); /* the bytes, not the name */
        cut_power(&w, file, SIM_LOSS_RANDOM);
        there += is_there(&w, "/d/a");
        end(&w);
    }
    assert_true(there > 0);
    assert_true(there < SEEDS);
    (void)state;
}

/* Without a sync of the folder a rename leaves one of both states, never none. */
static void
renames_are_atomic(void **state)
{
    unsigned olds = 0, news = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;

        begin(&w, seed);
        file = create(&w, "/d/a");
        sync_file(&w, file);
        sync_dir(&w);
        assert_int_equal(w.env->ops->path_rename(w.env, "/d/a", "/d/b", &w.err), 0);
        assert_false(is_there(&w, "/d/a"));
        cut_power(&w, file, SIM_LOSS_RANDOM);
        assert_true(is_there(&w, "/d/a") != is_there(&w, "/d/b"));
        olds += is_there(&w, "/d/a");
        news += is_there(&w, "/d/b");
        end(&w);
    }
    assert_true(olds > 0);
    assert_true(news > 0);
    (void)state;
}

static void
removed_files_may_come_back(void **state)
{
    struct world    w;
    struct ox_file *file;

    begin(&w, 3);
    file = create(&w, "/d/a");
    fill(&w, file, 1, 100, 0);
    sync_file(&w, file);
    sync_dir(&w);
    w.env->ops->file_close(w.env, file);
    assert_int_equal(w.env->ops->path_remove(w.env, "/d/a", &w.err), 0);
    cut_power(&w, NULL, SIM_LOSS_ALL);
    assert_true(all(bytes(&w, "/d/a", 100), 100, 1));
    assert_int_equal(w.env->ops->path_remove(w.env, "/d/a", &w.err), 0);
    sync_dir(&w);
    cut_power(&w, NULL, SIM_LOSS_ALL);
    assert_false(is_there(&w, "/d/a"));
    end(&w);
    (void)state;
}

static void
folders_need_a_sync_too(void **state)
{
    struct world    w;
    struct ox_file *file;

    begin(&w, 3);
    assert_int_equal(w.env->ops->dir_make(w.env, "/d/e", &w.err), 0);
    file = create(&w, "/d/e/a");
    sync_file(&w, file);
    assert_int_equal(w.env->ops->dir_sync(w.env, "/d/e", &w.err), 0);
    cut_power(&w, file, SIM_LOSS_ALL);
    assert_false(is_there(&w, "/d/e/a"));
    end(&w);
    (void)state;
}

/* The next sync says yes, but the bytes of the failed one may be gone for good. */
static void
failed_syncs_forget(void **state)
{
    unsigned lost = 0, kept = 0, stale = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 0, 512, 0);
        sync_file(&w, file);
        sync_dir(&w);
        fill(&w, file, 1, 512, 0);
        sim_fault_at(w.sim, SIM_SYNC, SIM_EIO, 0);
        assert_int_equal(w.env->ops->file_sync(w.env, file, &w.err), E_IO);
        assert_true(all(bytes(&w, "/d/a", 512), 512, 1));
        sync_file(&w, file);
        cut_power(&w, file, SIM_LOSS_NONE);
        stale += all(bytes(&w, "/d/a", 512), 512, 1);
        cut_power(&w, NULL, SIM_LOSS_RANDOM);
        lost += all(bytes(&w, "/d/a", 512), 512, 0);
        kept += all(bytes(&w, "/d/a", 512), 512, 1);
        end(&w);
    }
    assert_true(lost > 0);
    assert_true(kept > 0);
    assert_true(stale > kept);
    (void)state;
}

static void
failed_writes_write_a_part(void **state)
{
    unsigned parts = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct world    w;
        struct ox_file *file;
        uint8_t         data[1024];
        const uint8_t  *got;

        begin(&w, seed);
        file = create(&w, "/d/a");
        fill(&w, file, 0, 1024, 0);
        memset(data, 1, sizeof data);
        sim_fault_at(w.sim, SIM_WRITE, SIM_ENOSPC, 0);
        assert_int_equal(w.env->ops->file_write(w.env, file, data, sizeof data, 0, &w.err),
                         E_NOSPC);
        got = bytes(&w, "/d/a", 1024);
        parts += !all(got, 1024, 0) && !all(got, 1024, 1);
        w.env->ops->file_close(w.env, file);
        end(&w);
    }
    assert_true(parts > 0);
    (void)state;
}

static void
full_disk(void **state)
{
    struct world    w;
    struct ox_file *file;
    uint8_t         data[1000] = {0};
    uint64_t        left;

    begin(&w, 1);
    sim_set_capacity(w.sim, 1500);
    file = create(&w, "/d/a");
    fill(&w, file, 1, 1000, 0);
    assert_int_equal(w.env->ops->disk_free(w.env, "/d", &left, &w.err), 0);
    assert_int_equal(left, 500);
    assert_int_equal(w.env->ops->file_write(w.env, file, data, 1000, 1000, &w.err), E_NOSPC);
    assert_int_equal(w.err.kind, ERR_RETRY);
    assert_int_equal(w.env->ops->file_resize(w.env, file, 2000, &w.err), E_NOSPC);
    assert_int_equal(w.env->ops->file_write(w.env, file, data, 1000, 0, &w.err), 0);
    w.env->ops->file_close(w.env, file);
    end(&w);
    (void)state;
}

static void
nothing_happens_after_the_crash(void **state)
{
    struct world    w;
    struct ox_file *file, *other;
    uint64_t        size;

    begin(&w, 1);
    file = create(&w, "/d/a");
    fill(&w, file, 1, 1000, 0);
    sim_crash_at(w.sim, 1);
    sync_file(&w, file);
    assert_int_equal(w.env->ops->file_sync(w.env, file, &w.err), E_CLOSED);
    assert_true(sim_crashed(w.sim));
    assert_int_equal(w.env->ops->file_write(w.env, file, "x", 1, 0, &w.err), E_CLOSED);
    assert_int_equal(w.env->ops->file_size(w.env, file, &size, &w.err), E_CLOSED);
    assert_int_equal(w.env->ops->dir_sync(w.env, "/d", &w.err), E_CLOSED);
    assert_int_equal(w.env->ops->file_open(w.env, "/d/a", ENV_READ, &other, &w.err), E_CLOSED);
    cut_power(&w, file, SIM_LOSS_NONE);
    assert_true(all(bytes(&w, "/d/a", 1000), 1000, 1));
    end(&w);
    (void)state;
}

static void
maps_show_later_writes(void **state)
{
    struct world    w;
    struct ox_file *file;
    const uint8_t  *map;

    begin(&w, 1);
    file = create(&w, "/d/a");
    assert_int_equal(w.env->ops->file_resize(w.env, file, 8192, &w.err), 0);
    assert_int_equal(w.env->ops->file_map(w.env, file, 8192, &map, &w.err), 0);
    assert_true(all(map, 8192, 0));
    fill(&w, file, 5, 100, 4096);
    assert_true(all(map + 4096, 100, 5));
    w.env->ops->file_close(w.env, file); /* the map outlives the handle */
    assert_true(all(map + 4096, 100, 5));
    w.env->ops->file_unmap(w.env, map, 8192);
    end(&w);
    (void)state;
}

static void
one_lock_at_a_time(void **state)
{
    struct world    w;
    struct ox_file *a, *b;

    begin(&w, 1);
    a = create(&w, "/d/lock");
    b = create(&w, "/d/lock");
    assert_int_equal(w.env->ops->file_lock(w.env, a, &w.err), 0);
    assert_int_equal(w.env->ops->file_lock(w.env, b, &w.err), E_BUSY);
    w.env->ops->file_close(w.env, a);
    assert_int_equal(w.env->ops->file_lock(w.env, b, &w.err), 0);
    w.env->ops->file_close(w.env, b);
    end(&w);
    (void)state;
}

struct counter {
    struct world   *w;
    struct ox_gate *gate;
    unsigned        steps;
    uint64_t        wait;
};

static uint64_t
count_step(void *arg)
{
    struct counter *c = arg;

    if (++c->steps == 5 && c->gate != NULL)
        c->w->env->ops->gate_open(c->w->env, c->gate);
    return c->wait;
}

static void
tasks_step_when_due_or_woken(void **state)
{
    struct world       w;
    struct counter     c = {.wait = ENV_STEP_WAIT};
    struct ox_task_def def = {.name = "count", .step = count_step, .arg = &c};
    struct ox_task    *task;

    begin(&w, 1);
    assert_int_equal(w.env->ops->task_start(w.env, &def, &task, &w.err), 0);
    assert_int_equal(sim_run(w.sim, 100), 1); /* a new task is due at once */
    assert_int_equal(c.steps, 1);
    w.env->ops->task_wake(w.env, task);
    w.env->ops->task_wake(w.env, task);
    assert_int_equal(sim_run(w.sim, 100), 1);
    c.wait = 1000000;
    w.env->ops->task_wake(w.env, task);
    (void)sim_run(w.sim, 10);
    assert_true(c.steps > 3); /* the clock went on to its time */
    w.env->ops->task_stop(w.env, task);
    end(&w);
    (void)state;
}

static void
gates_step_the_others(void **state)
{
    struct world       w;
    struct ox_gate     gate, never;
    struct counter     c = {.w = &w, .gate = &gate, .wait = 10};
    struct ox_task_def def = {.name = "count", .step = count_step, .arg = &c};
    struct ox_task    *task;
    uint64_t           before;

    begin(&w, 1);
    gate_init(&gate);
    gate_init(&never);
    assert_int_equal(w.env->ops->task_start(w.env, &def, &task, &w.err), 0);
    assert_true(w.env->ops->gate_wait(w.env, &gate, UINT64_MAX));
    assert_true(c.steps >= 5);
    before = w.env->ops->mono_us(w.env);
    assert_false(w.env->ops->gate_wait(w.env, &never, 5000));
    assert_true(w.env->ops->mono_us(w.env) >= before + 5000);
    w.env->ops->task_stop(w.env, task);
    end(&w);
    (void)state;
}

static void
same_seed_same_world(void **state)
{
    uint8_t a[64], b[64];

    for (unsigned round = 0; round < 2; round++) {
        struct world    w;
        struct ox_file *file;

        begin(&w, 42);
        file = create(&w, "/d/a");
        fill(&w, file, 1, 4096, 0);
        sync_dir(&w);
        cut_power(&w, file, SIM_LOSS_RANDOM);
        w.env->ops->random(w.env, round == 0 ? a : b, sizeof a);
        end(&w);
    }
    assert_memory_equal(a, b, sizeof a);
    (void)state;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_was_synced),
        cmocka_unit_test(loses_what_was_not),
        cmocka_unit_test(end_of_a_process_keeps_all),
        cmocka_unit_test(tears),
        cmocka_unit_test(reorders),
        cmocka_unit_test(keeps_versions_in_order),
        cmocka_unit_test(grown_files_come_back_short_or_zero),
        cmocka_unit_test(names_need_a_sync_of_their_folder),
        cmocka_unit_test(renames_are_atomic),
        cmocka_unit_test(removed_files_may_come_back),
        cmocka_unit_test(folders_need_a_sync_too),
        cmocka_unit_test(failed_syncs_forget),
        cmocka_unit_test(failed_writes_write_a_part),
        cmocka_unit_test(full_disk),
        cmocka_unit_test(nothing_happens_after_the_crash),
        cmocka_unit_test(maps_show_later_writes),
        cmocka_unit_test(one_lock_at_a_time),
        cmocka_unit_test(tasks_step_when_due_or_woken),
        cmocka_unit_test(gates_step_the_others),
        cmocka_unit_test(same_seed_same_world),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
