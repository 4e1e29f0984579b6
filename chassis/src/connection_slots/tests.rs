use super::*;

fn host(number: u8) -> Holder {
    Holder::network(SocketAddr::from(([192, 0, 2, number], 1)))
}

/// Returns a slot of a connection that has started and carries no call.
fn idle(slots: &Slots, holder: &Holder) -> Slot {
    let slot = slots.try_take(holder).unwrap();
    slot.started();
    slot
}

#[test]
fn a_holder_is_an_ipv4_address_or_an_ipv6_network() {
    let of = |text: &str| Holder::network(text.parse().unwrap());
    assert_eq!(of("192.0.2.1:1"), of("192.0.2.1:2"));
    assert_eq!(of("192.0.2.1:1"), of("[::ffff:192.0.2.1]:2"));
    assert_ne!(of("192.0.2.1:1"), of("192.0.2.2:1"));
    assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:0:0:1]:1"));
    assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
}

#[test]
fn the_oldest_idle_connection_makes_room() {
    let slots = Slots::new("test", 3, Eviction::OldestIdle);
    let held: Vec<Slot> = (0..3).map(|_| idle(&slots, &host(1))).collect();
    held[0].call_began();
    let _newcomer = slots.try_take(&host(1)).unwrap();
    let evicted: Vec<bool> = held.iter().map(Slot::is_evicted).collect();
    assert_eq!(evicted, [false, true, false]);
}

#[test]
fn a_connection_that_carried_a_call_outlasts_those_that_never_did() {
    let slots = Slots::new("test", 3, Eviction::OldestIdle);
    let held: Vec<Slot> = (0..3).map(|_| idle(&slots, &host(1))).collect();
    held[0].call_began();
    held[0].call_ended();
    let evicted = || held.iter().map(Slot::is_evicted).collect::<Vec<_>>();
    let _newcomers = [1, 2].map(|_| idle(&slots, &host(1)));
    assert_eq!(evicted(), [false, true, true]);
    // `evict_unused` spares connections that carried a call.
    for _ in 0..4 {
        slots.evict_unused();
    }
    assert!(!held[0].is_evicted());
}

#[test]
fn the_holder_of_most_slots_makes_room_for_others() {
    let slots = Slots::new("test", 4, Eviction::OldestIdle);
    let few = idle(&slots, &host(1));
    let many: Vec<Slot> = (0..3).map(|_| idle(&slots, &host(2))).collect();
    let _newcomer = slots.try_take(&host(3)).unwrap();
    assert!(!few.is_evicted() && many[0].is_evicted() && !many[1].is_evicted());
}

#[test]
fn a_connection_that_has_not_started_or_carries_a_call_is_not_idle() {
    let slots = Slots::new("test", 2, Eviction::OldestIdle);
    let (starting, busy) = (slots.try_take(&host(1)).unwrap(), idle(&slots, &host(1)));
    busy.call_began();
    assert!(slots.try_take(&host(2)).is_none());
    starting.started();
    assert!(slots.try_take(&host(2)).is_some());
    assert!(starting.is_evicted() && !busy.is_evicted());
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_a_slot_that_is_given_back_or_becomes_idle() {
    let slots = Slots::new("test", 1, Eviction::OldestIdle);
    let given_back = slots.try_take(&host(1)).unwrap();
    let (next, ()) = tokio::join!(slots.take(host(2)), async {
        time::sleep(Duration::from_secs(3)).await;
        drop(given_back);
    });
    next.started();
    next.call_began();
    let began = Instant::now();
    let (_last, ()) = tokio::join!(slots.take(host(3)), async {
        time::sleep(Duration::from_secs(3)).await;
        next.call_ended();
    });
    assert!(next.is_evicted());
    assert!(began.elapsed() <= Duration::from_secs(3) + RETRY);
}

#[test]
fn an_evicted_connection_gives_no_slot_back_a_second_time() {
    let slots = Slots::new("test", 1, Eviction::OldestIdle);
    let first = idle(&slots, &host(1));
    let second = slots.try_take(&host(1)).unwrap();
    drop(first);
    assert!(slots.try_take(&host(1)).is_none());
    drop(second);
    assert!(slots.try_take(&host(1)).is_some());
}

#[test]
fn principals_get_even_shares_and_do_not_evict_their_own() {
    let holder = |name: &str| Holder::Principal(Principal::parse(name).unwrap());
    let (greedy, admin) = (holder("dns:greedy"), holder("dns:admin"));
    let slots = Slots::new("test", 4, Eviction::FromLargerHolder);
    let held: Vec<Slot> = (0..4).map(|_| slots.try_take(&greedy).unwrap()).collect();
    assert!(slots.try_take(&greedy).is_none());
    assert!(held.iter().all(|slot| !slot.is_evicted()));
    let _its = [slots.try_take(&admin).unwrap(), slots.try_take(&admin).unwrap()];
    let evicted: Vec<bool> = held.iter().map(Slot::is_evicted).collect();
    assert_eq!(evicted, [true, true, false, false]);
    assert!(slots.try_take(&admin).is_none(), "two and two is even");
}

#[test]
fn an_unused_connection_is_evicted_for_a_descriptor_even_while_slots_are_free() {
    let slots = Slots::new("test", 10, Eviction::OldestIdle);
    let (busy, first, second) = (
        slots.try_take(&host(1)).unwrap(),
        idle(&slots, &host(1)),
        idle(&slots, &host(1)),
    );
    slots.evict_unused();
    assert!(!busy.is_evicted() && first.is_evicted() && !second.is_evicted());
    slots.evict_unused();
    slots.evict_unused();
    assert!(!busy.is_evicted() && second.is_evicted());
}
