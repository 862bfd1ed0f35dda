/*
 * A plugin that has the patched QEMU log all blocks and accesses, as ktracer's does, into a buffer that nobody reads: what of the
 * recording's time is the vCPU's alone. benches/log-only.sh builds and runs it.
 */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

/* As in tracer/src/ring.rs: chunks of a ring that is larger than the caches. A block's log fits what is left behind the limit. */
enum { CHUNK = 1 << 18, RING = 32 << 20, SPARE = 1 << 16 };

/* What is written for a block; nobody looks at it. */
static const uint64_t BLOCK = 0x8200000000000000;
static const uint64_t PACKED = 0x8102ffff00000001;

static qemu_plugin_u64 next, limit, progress;
static uint64_t ring, chunks;

static void begin_chunk(unsigned int vcpu)
{
    uint64_t chunk = ring + chunks % (RING / CHUNK) * CHUNK;

    qemu_plugin_u64_set(next, vcpu, chunk);
    qemu_plugin_u64_set(limit, vcpu, chunk + CHUNK - SPARE);
}

static void full(unsigned int vcpu, void *unused)
{
    chunks++;
    begin_chunk(vcpu);
}

static uint64_t packed(const qemu_plugin_log_site *sites, size_t count, void *unused)
{
    return PACKED;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    if (!qemu_plugin_register_vcpu_tb_exec_log(tb, next, limit, BLOCK, full, QEMU_PLUGIN_CB_NO_REGS, NULL)) {
        return;
    }
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        qemu_plugin_register_vcpu_mem_log(qemu_plugin_tb_get_insn(tb, i), QEMU_PLUGIN_MEM_RW, next, 0);
    }
    qemu_plugin_tb_pack_log(tb, progress, packed, NULL);
}

static void ended(qemu_plugin_id_t id, void *unused)
{
    fprintf(stderr, "%.1f GB logged\n", (double)chunks * (CHUNK - SPARE) / 1e9);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    struct qemu_plugin_scoreboard *board = qemu_plugin_scoreboard_new(3 * sizeof(uint64_t));
    void *memory = mmap(NULL, RING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        perror("log-only");
        return -1;
    }
    ring = (uintptr_t)memory;
    next = (qemu_plugin_u64){ board, 0 };
    limit = (qemu_plugin_u64){ board, sizeof(uint64_t) };
    progress = (qemu_plugin_u64){ board, 2 * sizeof(uint64_t) };
    /* The limit is 0 at first: the first block's entry calls. */
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
