/* A plugin of qemu's user emulation that counts what an aarch64 program executes: all instructions,
 * and those that multiply and add four floats (or fewer) at once.
 *
 * The declarations are those of qemu's plugin interface, version 1, whose header Debian does not package. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef uint64_t plugin_id;
struct tb;
struct insn;
extern size_t qemu_plugin_tb_n_insns(const struct tb *);
extern struct insn *qemu_plugin_tb_get_insn(const struct tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct insn *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern void qemu_plugin_outs(const char *);

int qemu_plugin_version = 1;

static uint64_t all, vector_fma;

static void executed(unsigned cpu, void *counts)
{
    (void)cpu;
    all += (uint32_t)(uintptr_t)counts;
    vector_fma += (uintptr_t)counts >> 32;
}

static int is_vector_fma(uint32_t word)
{
    /* FMLA and FMLS, by vector and by element, single precision. */
    return (word & 0xbf60fc00) == 0x0e20cc00 || (word & 0xbfc0b400) == 0x0f801000;
}

static void translated(plugin_id id, struct tb *tb)
{
    (void)id;
    uint64_t n = qemu_plugin_tb_n_insns(tb), fma = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint32_t word;
        __builtin_memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), sizeof word);
        fma += is_vector_fma(word);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executed, 0, (void *)(uintptr_t)(n | fma << 32));
}

static void at_end(plugin_id id, void *data)
{
    (void)id, (void)data;
    char line[80];
    snprintf(line, sizeof line, "instructions %llu fma %llu\n", (unsigned long long)all,
             (unsigned long long)vector_fma);
    qemu_plugin_outs(line);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_end, NULL);
    return 0;
}
