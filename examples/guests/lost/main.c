/* lost: a small bank whose sum goes wrong now and then. Find out why, backwards: docs/time-travel.md.
 *
 * Boot arguments: moves=20000 of money between the accounts.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../board/fdt.h"
#include "../board/program.h"

enum { ACCOUNTS = 16, NAME_BYTES = 12, OPENING = 1000 };

struct account {
    char name[NAME_BYTES];
    int32_t balance;
};

static struct account bank[ACCOUNTS];

static uint64_t next_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void open_account(unsigned number)
{
    snprintf(bank[number].name, NAME_BYTES, "client %u", number);
    bank[number].balance = OPENING;
}

/* Clients rename themselves now and then; some like it long. */
static void rename_account(unsigned number, uint64_t visits)
{
    char wanted[40];
    snprintf(wanted, sizeof wanted, "client %u, visit %" PRIu64, number, visits);
    memcpy(bank[number].name, wanted, strlen(wanted) + 1);
}

static void move(unsigned from, unsigned to, int32_t amount)
{
    bank[from].balance -= amount;
    bank[to].balance += amount;
}

static int64_t sum(void)
{
    int64_t total = 0;
    for (unsigned number = 0; number < ACCOUNTS; number++)
        total += bank[number].balance;
    return total;
}

int program(const void *device_tree)
{
    const uint64_t moves = fdt_argument(device_tree, "moves", 20000);
    for (unsigned number = 0; number < ACCOUNTS; number++)
        open_account(number);
    for (uint64_t count = 0; count < moves; count++) {
        uint64_t drawn = next_random();
        if (drawn % 30011 == 0)
            rename_account((unsigned)(drawn >> 16) % ACCOUNTS, count);
        move((unsigned)(drawn >> 8) % ACCOUNTS, (unsigned)(drawn >> 24) % ACCOUNTS, (int32_t)(drawn >> 32) % 100);
    }
    if (sum() != ACCOUNTS * OPENING) {
        printf("lost: the bank holds %" PRId64 ", not %d\n", sum(), ACCOUNTS * OPENING);
        return 1;
    }
    printf("lost: all is there\n");
    return 0;
}
