/* transactions JOURNAL: commits numbered entries to an SQLite database on /disk; JOURNAL is wal or delete.
 *
 * A line "CLIENT NUMBER" is answered by the same line once that entry is committed; "CLIENT 0" by "CLIENT COUNT LAST".
 * EXTRA: with FULL, a power cut may bring back a rollback journal, and with it undo the last transaction.
 */
#include <netinet/in.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PORT 7
#define WAIT_MS 60000

static sqlite3 *database;

static void need(int is_well, const char *what)
{
    if (!is_well) {
        printf("transactions: %s failed: %s\n", what, database ? sqlite3_errmsg(database) : "");
        exit(1);
    }
}

static void open_database(const char *journal)
{
    char first[128];
    snprintf(first, sizeof first, "PRAGMA journal_mode=%s; PRAGMA synchronous=EXTRA", journal);
    need(sqlite3_open("/disk/entries.db", &database) == SQLITE_OK, "opening");
    need(sqlite3_busy_timeout(database, WAIT_MS) == SQLITE_OK, "waiting");
    need(sqlite3_exec(database, first, NULL, NULL, NULL) == SQLITE_OK, first);
}

static void serve(int link)
{
    const char *row = "INSERT OR IGNORE INTO entries VALUES(?1, ?2, printf('%0*d', 64 + ?2 * 37 % 6000, ?2))";
    const char *sum = "SELECT ?1, count(*), coalesce(max(number), 0) FROM entries WHERE client = ?1";
    FILE *in = fdopen(link, "r"), *out = fdopen(dup(link), "w");
    sqlite3_stmt *insert, *look;
    long long client, number;
    need(sqlite3_prepare_v2(database, row, -1, &insert, NULL) == SQLITE_OK, row);
    need(sqlite3_prepare_v2(database, sum, -1, &look, NULL) == SQLITE_OK, sum);
    while (fscanf(in, "%lld %lld", &client, &number) == 2) {
        sqlite3_stmt *asked = number ? insert : look;
        sqlite3_bind_int64(asked, 1, client);
        if (number)
            sqlite3_bind_int64(asked, 2, number);
        need(sqlite3_step(asked) == (number ? SQLITE_DONE : SQLITE_ROW), "a statement");
        if (number)
            fprintf(out, "%lld %lld\n", client, number);
        else
            fprintf(out, "%lld %s %s\n", client, sqlite3_column_text(look, 1), sqlite3_column_text(look, 2));
        need(sqlite3_reset(asked) == SQLITE_OK, "a statement's end");
        fflush(out);
    }
    exit(0);
}

int main(int count, char **words)
{
    const char *table = "CREATE TABLE IF NOT EXISTS entries(client, number, text, PRIMARY KEY(client, number))";
    const struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    const int door = socket(AF_INET, SOCK_STREAM, 0);
    setvbuf(stdout, NULL, _IOLBF, 0);
    need(count == 2, "the journal's mode");
    signal(SIGCHLD, SIG_IGN);
    open_database(words[1]);
    need(sqlite3_exec(database, table, NULL, NULL, NULL) == SQLITE_OK, table);
    need(sqlite3_close(database) == SQLITE_OK, "closing");
    need(bind(door, (const struct sockaddr *)&here, sizeof here) == 0 && listen(door, 8) == 0, "listening");
    for (;;) {
        const int link = accept(door, NULL, NULL);
        if (link >= 0 && fork() == 0) {
            open_database(words[1]);
            serve(link);
        }
        close(link);
    }
}
