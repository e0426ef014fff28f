#include "event_ring.h"

#include "check.h"

#ifndef _WIN32
#include <pthread.h>
#include <sched.h>
#endif

static void test_events_leave_in_order_and_a_full_ring_drops(void)
{
    static rcmgr_event slots[4];
    rcmgr_event_ring ring;
    rcmgr_ring_start(&ring, slots, 4);
    CHECK(rcmgr_ring_oldest(&ring) == NULL);
    for (uint64_t round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 4; i++) {
            rcmgr_event *event = rcmgr_ring_claim(&ring);
            CHECK(event != NULL);
            event->number = 10 * round + i;
            rcmgr_ring_publish(event);
        }
        CHECK(rcmgr_ring_claim(&ring) == NULL);
        CHECK_EQ(ring.dropped, round + 1);
        for (uint64_t i = 0; i < 4; i++) {
            CHECK_EQ(rcmgr_ring_oldest(&ring)->number, 10 * round + i);
            rcmgr_ring_drop_oldest(&ring);
        }
        CHECK(rcmgr_ring_oldest(&ring) == NULL);
    }
}

static void test_an_event_is_not_read_before_it_is_published(void)
{
    static rcmgr_event slots[4];
    rcmgr_event_ring ring;
    rcmgr_ring_start(&ring, slots, 4);
    rcmgr_event *first = rcmgr_ring_claim(&ring), *second = rcmgr_ring_claim(&ring);
    rcmgr_ring_publish(second);
    CHECK(rcmgr_ring_oldest(&ring) == NULL);
    rcmgr_ring_publish(first);
    CHECK(rcmgr_ring_oldest(&ring) == first);
}

static void check_address(const char *text, const char *expected)
{
    rcmgr_event event;
    rcmgr_event_note_address(&event, text, strlen(text));
    CHECK_EQ(event.text_size, strlen(expected));
    CHECK(memcmp(event.text, expected, event.text_size) == 0);
}

static void test_addresses(void)
{
    check_address("1.2.3.4", "1.2.3.4");
    check_address("1.2.3.4:80", "1.2.3.4");
    check_address("[2001:db8::1]:80", "2001:db8::1");
    check_address("2001:db8::1", "2001:db8::1");
    check_address("fe80::1%eth0", "fe80::1");
    check_address("/ip4/1.2.3.4/tcp/80", "1.2.3.4");
    check_address("/ip6/::1/udp/4001/quic-v1", "::1");
    check_address("/ip4/1.2.3.4", "1.2.3.4");
    check_address("/ip4/1.2.3.4/tcp/80/p2p-circuit/p2p/x", "");
    check_address("/ip4/1.2.3.4/tcp/80/p2p-circuit", "");
    check_address("/dns4/a.example/tcp/80", "");
    check_address("", "");
    check_address("/", "");
    check_address("[", "");
    check_address("0123456789012345678901234567890123456789012345678", "");
}

#ifndef _WIN32

enum { WRITERS = 4, EACH = 50000 };

static rcmgr_event_ring shared;
static rcmgr_event shared_slots[64];

static void *write_events(void *number)
{
    for (uint64_t i = 0; i < EACH; i++) {
        rcmgr_event *event;
        while ((event = rcmgr_ring_claim(&shared)) == NULL)
            sched_yield();
        event->number = (uint64_t)(uintptr_t)number;
        event->value = (int64_t)i;
        rcmgr_ring_publish(event);
    }
    return NULL;
}

static void test_each_thread_writes_in_order_and_nothing_is_lost(void)
{
    pthread_t threads[WRITERS];
    int64_t next[WRITERS] = {0};
    rcmgr_ring_start(&shared, shared_slots, 64);
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, write_events, (void *)i), 0);
    for (int left = WRITERS * EACH; left > 0;) {
        const rcmgr_event *event = rcmgr_ring_oldest(&shared);
        if (event == NULL) {
            sched_yield();
            continue;
        }
        CHECK_EQ(event->value, next[event->number]);
        next[event->number]++;
        rcmgr_ring_drop_oldest(&shared);
        left--;
    }
    for (int i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK(rcmgr_ring_oldest(&shared) == NULL);
}

#else

static void test_each_thread_writes_in_order_and_nothing_is_lost(void) {}

#endif

int main(void)
{
    test_events_leave_in_order_and_a_full_ring_drops();
    test_an_event_is_not_read_before_it_is_published();
    test_addresses();
    test_each_thread_writes_in_order_and_nothing_is_lost();
    return 0;
}
