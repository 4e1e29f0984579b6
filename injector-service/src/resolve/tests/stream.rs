//! The stream to the vault: rotation of keys, broken streams and abandoned requests, in paused time.

use futures_util::future::join_all;
use proto::ServerName;
use tokio::{task::JoinSet, time};

use super::{
    fake_vault::{VaultStream, start, start_unreachable},
    *,
};
use crate::registry::server::Spec;

pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn call(resolver: &Resolver) -> Result<(), Reason> {
    let asked = resolver.workspace_uid(&WorkspaceName::parse("w").unwrap()).await;
    asked.map(drop).map_err(|refusal| refusal.reason)
}

/// Makes `count` calls, a thousand in each millisecond, and returns their outcomes.
async fn calls(resolver: &Resolver, count: u64) -> Vec<Result<(), Reason>> {
    let calls = (0..count).map(|number| async move {
        time::sleep(Duration::from_millis(number / 1_000)).await;
        call(resolver).await
    });
    join_all(calls).await
}

fn count(outcomes: &[Result<(), Reason>], reason: Reason) -> usize {
    outcomes.iter().filter(|&one| *one == Err(reason)).count()
}

/// Answers every message after `delay` until the stream ends, and returns the number of keys that were announced.
pub(super) async fn serve(mut stream: VaultStream, delay: Duration) -> u64 {
    let mut keys = 0;
    while let Some((calls, recipient)) = stream.receive().await {
        if let Some(recipient) = recipient {
            drop(stream.seal_to(&recipient));
            keys += 1;
        }
        time::sleep(delay).await;
        stream.answer(&calls).await;
    }
    keys
}

// ---- keys ----

#[tokio::test(start_paused = true)]
async fn an_idle_stream_has_a_new_key_every_minute() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut stream = vault.stream().await;
    let mut last = None;
    for epoch in 1..=10 {
        let (calls, recipient) = stream.receive().await.unwrap();
        let recipient = recipient.unwrap();
        assert_eq!((calls.len(), recipient.epoch), (0, epoch));
        let since = last.replace(Instant::now()).map(|last| last.elapsed());
        assert!(
            since.is_none_or(|since| since < MINUTE && since > MINUTE / 2),
            "{since:?}"
        );
        drop(stream.seal_to(&recipient));
        stream.answer(&[]).await;
    }
    drop(resolver);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_wiped_when_the_vault_uses_the_next_one() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut stream = vault.stream().await;
    assert!(stream.receive_calls().await.unwrap().is_empty());
    stream.answer(&[]).await;
    let (_, recipient) = stream.receive().await.unwrap();
    let mut old = stream.seal_to(&recipient.unwrap()).unwrap();
    // A message without answers suffices to switch to the next epoch.
    stream.answer(&[]).await;
    let (answered, ()) = tokio::join!(call(&resolver), async {
        let calls = stream.receive_calls().await.unwrap();
        stream.answer_sealed_with(&mut old, 1, calls[0]).await;
    });
    assert_eq!(answered, Err(Reason::VaultAnswerInvalid));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_until_the_vault_uses_the_next_one() {
    let (resolver, mut vault) = start(10 * MINUTE);
    let mut stream = vault.stream().await;
    assert!(stream.receive_calls().await.unwrap().is_empty());
    stream.answer(&[]).await;
    let (answered, ()) = tokio::join!(call(&resolver), async {
        let calls = stream.receive_calls().await.unwrap();
        let (_, next) = stream.receive().await.unwrap();
        time::sleep(MINUTE / 2).await;
        stream.answer(&calls).await;
        drop(stream.seal_to(&next.unwrap()));
        stream.answer(&[]).await;
    });
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_key_rotation_under_load_fails_no_call() {
    let (resolver, mut vault) = start(TIMEOUT);
    let stream = vault.stream().await;
    let serving = tokio::spawn(serve(stream, Duration::from_millis(30)));
    let until = Instant::now() + 4 * MINUTE;
    let mut callers = JoinSet::new();
    for caller in 0..20 {
        let resolver = resolver.clone();
        callers.spawn(async move {
            time::sleep(Duration::from_millis(50 * caller)).await;
            while Instant::now() < until {
                assert_eq!(call(&resolver).await, Ok(()));
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    drop((resolver, vault));
    assert!(serving.await.unwrap() >= 4);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_the_vault_uses_no_new_key() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut stream = vault.stream().await;
    assert!(stream.receive_calls().await.unwrap().is_empty());
    stream.answer(&[]).await;
    // The vault receives the next key and does not use it.
    assert!(stream.receive_calls().await.unwrap().is_empty());
    let received = Instant::now();
    let mut next = vault.stream().await;
    assert!(
        received.elapsed() < MINUTE + Duration::from_secs(1),
        "{:?}",
        received.elapsed()
    );
    assert!(stream.receive().await.is_none());
    let (answered, _) = tokio::join!(call(&resolver), next.answer_next());
    assert_eq!(answered, Ok(()));
}

// ---- broken streams ----

#[tokio::test(start_paused = true)]
async fn pauses_grow_while_the_vault_breaks_every_stream() {
    let (resolver, mut vault) = start(MINUTE);
    let calling = tokio::spawn(async move { call(&resolver).await });
    let until = Instant::now() + Duration::from_secs(3);
    let mut streams = 0;
    while Instant::now() < until {
        let mut stream = vault.stream().await;
        // The vault uses the key each time, and does not answer the call.
        while stream.receive_calls().await.unwrap().is_empty() {
            stream.answer(&[]).await;
        }
        stream.break_off().await;
        streams += 1;
    }
    assert!((6..=14).contains(&streams), "{streams} streams in 3 s");
    calling.abort();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_worked_is_opened_again_at_once() {
    let (resolver, mut vault) = start(MINUTE);
    let mut broken = Instant::now();
    for round in 0..10 {
        let mut stream = vault.stream().await;
        let took = broken.elapsed();
        assert!(took <= Duration::from_millis(25), "round {round}: {took:?}");
        if round % 2 == 0 {
            assert_eq!(tokio::join!(call(&resolver), stream.answer_next()).0, Ok(()));
        } else {
            assert!(stream.receive_calls().await.unwrap().is_empty());
            stream.answer(&[]).await;
            time::sleep(Duration::from_secs(5)).await;
        }
        broken = Instant::now();
        stream.break_off().await;
    }
}

// ---- waiting calls ----

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_makes_room_while_the_vault_is_unreachable() {
    let (resolver, _vault) = start_unreachable(TIMEOUT);
    for _ in 0..5 {
        let ended = calls(&resolver, 3_000).await;
        assert_eq!(count(&ended, Reason::VaultUnavailable), 3_000);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_makes_room_while_the_vault_does_not_read() {
    let (resolver, mut vault) = start(TIMEOUT);
    let _unread = vault.stream().await;
    for _ in 0..5 {
        let ended = calls(&resolver, 3_000).await;
        assert_eq!(count(&ended, Reason::DeadlineExceeded), 3_000);
    }
}

#[tokio::test(start_paused = true)]
async fn the_number_of_waiting_calls_is_limited() {
    const MOST: usize = 8192;
    let (resolver, mut vault) = start(TIMEOUT);
    let mut stream = vault.stream().await;
    let receiving = tokio::spawn(async move { while stream.receive().await.is_some() {} });
    for _ in 0..2 {
        let ended = calls(&resolver, 12_000).await;
        assert_eq!(count(&ended, Reason::Overloaded), 12_000 - MOST);
        assert_eq!(count(&ended, Reason::DeadlineExceeded), MOST);
    }
    receiving.abort();
}

#[tokio::test(start_paused = true)]
async fn answers_to_abandoned_calls_do_not_break_the_stream() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut stream = vault.stream().await;
    let entry = Arc::new(Entry::added(
        WorkspaceName::parse("w").unwrap(),
        ServerName::parse("s").unwrap(),
        Uid::generate(),
        Spec::of_url("https://a.example"),
    ));
    let checks = |count: u64| {
        let check = async || {
            let checked = resolver.check(&entry, &[]).await;
            checked.map(drop).map_err(|refusal| refusal.reason)
        };
        join_all((0..count).map(move |number| async move {
            time::sleep(Duration::from_millis(number / 1_000)).await;
            check().await
        }))
    };
    // The vault reads two waves of calls and answers none in time. The calls of the second wave find room because those of the first were abandoned.
    let receiving = async {
        let mut received = Vec::new();
        while received.len() < 2 * 8192 {
            received.extend(stream.receive_calls().await.unwrap());
        }
        received
    };
    let waves = async { [checks(8_192).await, checks(8_192).await].concat() };
    let (received, ended) = tokio::join!(receiving, waves);
    assert_eq!(count(&ended, Reason::DeadlineExceeded), 2 * 8192);
    let (answered, ()) = tokio::join!(call(&resolver), async {
        stream.answer(&received).await;
        stream.answer_next().await;
    });
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_vault_that_answers_nothing_are_limited() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut stream = vault.stream().await;
    let receiving = tokio::spawn(async move { while stream.receive().await.is_some() {} });
    let mut refused = 0;
    for _ in 0..5 {
        refused += count(&calls(&resolver, 8_192).await, Reason::Overloaded);
    }
    assert_eq!(refused, 8_192);
    receiving.abort();
}

#[tokio::test(start_paused = true)]
async fn the_number_of_waiting_calls_is_limited_while_the_vault_is_unreachable() {
    const MOST: usize = 8192;
    let (resolver, _vault) = start_unreachable(TIMEOUT);
    for _ in 0..2 {
        let ended = calls(&resolver, 12_000).await;
        assert_eq!(count(&ended, Reason::Overloaded), 12_000 - MOST);
        assert_eq!(count(&ended, Reason::VaultUnavailable), MOST);
    }
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_is_not_sent_when_the_vault_becomes_reachable() {
    let (resolver, mut vault) = start_unreachable(TIMEOUT);
    let abandoned = calls(&resolver, 100).await;
    assert_eq!(count(&abandoned, Reason::VaultUnavailable), 100);
    vault.accept();
    let mut stream = vault.stream().await;
    let (answered, asked) = tokio::join!(call(&resolver), stream.answer_next());
    assert_eq!((answered, asked), (Ok(()), 1));
}
