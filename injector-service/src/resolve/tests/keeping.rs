//! The stream to the vault over minutes and breaks. Time passes when there is nothing else to do.

use futures_util::future::join_all;
use proto::ServerName;
use tokio::{task::JoinSet, time};

use super::{
    vault::{Line, begin, begin_without},
    *,
};
use crate::registry::server::Spec;

const BUDGET: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);

async fn call(resolver: &Resolver) -> Result<(), Reason> {
    let asked = resolver.workspace_uid(&WorkspaceName::parse("w").unwrap()).await;
    asked.map(drop).map_err(|refusal| refusal.reason)
}

/// Calls of which a thousand begin at a time, and how each of them ends.
async fn calls(resolver: &Resolver, count: u64) -> Vec<Result<(), Reason>> {
    let calls = (0..count).map(|number| async move {
        time::sleep(Duration::from_millis(number / 1_000)).await;
        call(resolver).await
    });
    join_all(calls).await
}

fn count(ended: &[Result<(), Reason>], reason: Reason) -> usize {
    ended.iter().filter(|&one| *one == Err(reason)).count()
}

/// Answers whatever is asked, a moment later, until the stream is over. How many keys it was told of.
async fn serve(mut line: Line, moment: Duration) -> u64 {
    let mut keys = 0;
    while let Some((calls, recipient)) = line.hear().await {
        if let Some(recipient) = recipient {
            drop(line.take_up(&recipient));
            keys += 1;
        }
        time::sleep(moment).await;
        line.say(&calls).await;
    }
    keys
}

// ---- keys ----

#[tokio::test(start_paused = true)]
async fn a_stream_on_which_nothing_is_asked_has_a_new_key_every_minute() {
    let (resolver, mut vault) = begin(BUDGET);
    let mut line = vault.line().await;
    let mut last = None;
    for epoch in 1..=10 {
        let (calls, recipient) = line.hear().await.unwrap();
        let recipient = recipient.unwrap();
        assert_eq!((calls.len(), recipient.epoch), (0, epoch));
        let since = last.replace(Instant::now()).map(|last| last.elapsed());
        assert!(
            since.is_none_or(|since| since < MINUTE && since > MINUTE / 2),
            "{since:?}"
        );
        drop(line.take_up(&recipient));
        line.say(&[]).await;
    }
    drop(resolver);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_gone_when_the_vault_has_the_next_one() {
    let (resolver, mut vault) = begin(BUDGET);
    let mut line = vault.line().await;
    assert!(line.attend().await.unwrap().is_empty());
    line.say(&[]).await;
    let (_, recipient) = line.hear().await.unwrap();
    let mut old = line.take_up(&recipient.unwrap()).unwrap();
    // Nothing was asked in either epoch, and nothing is in this message.
    line.say(&[]).await;
    let (answered, ()) = tokio::join!(call(&resolver), async {
        let calls = line.attend().await.unwrap();
        line.say_sealed_with(&mut old, 1, calls[0]).await;
    });
    assert_eq!(answered, Err(Reason::VaultAnswerInvalid));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_kept_for_answers_that_the_vault_owes_to_it() {
    let (resolver, mut vault) = begin(10 * MINUTE);
    let mut line = vault.line().await;
    assert!(line.attend().await.unwrap().is_empty());
    line.say(&[]).await;
    let (answered, ()) = tokio::join!(call(&resolver), async {
        let calls = line.attend().await.unwrap();
        let (_, next) = line.hear().await.unwrap();
        time::sleep(MINUTE / 2).await;
        line.say(&calls).await;
        drop(line.take_up(&next.unwrap()));
        line.say(&[]).await;
    });
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_under_load_fails_no_call() {
    let (resolver, mut vault) = begin(BUDGET);
    let line = vault.line().await;
    let serving = tokio::spawn(serve(line, Duration::from_millis(30)));
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
async fn a_vault_that_takes_up_no_key_loses_its_stream() {
    let (resolver, mut vault) = begin(BUDGET);
    let mut line = vault.line().await;
    assert!(line.attend().await.unwrap().is_empty());
    line.say(&[]).await;
    // The next is heard, and nothing comes of it.
    assert!(line.attend().await.unwrap().is_empty());
    let heard = Instant::now();
    let mut next = vault.line().await;
    assert!(
        heard.elapsed() < MINUTE + Duration::from_secs(1),
        "{:?}",
        heard.elapsed()
    );
    assert!(line.hear().await.is_none());
    let (answered, _) = tokio::join!(call(&resolver), next.answer());
    assert_eq!(answered, Ok(()));
}

// ---- breaks ----

#[tokio::test(start_paused = true)]
async fn a_vault_that_breaks_every_stream_is_called_less_and_less_often() {
    let (resolver, mut vault) = begin(MINUTE);
    let calling = tokio::spawn(async move { call(&resolver).await });
    let until = Instant::now() + Duration::from_secs(3);
    let mut streams = 0;
    while Instant::now() < until {
        let mut line = vault.line().await;
        // The key is taken up each time, and the call is not answered.
        while line.attend().await.unwrap().is_empty() {
            line.say(&[]).await;
        }
        line.end().await;
        streams += 1;
    }
    assert!((6..=14).contains(&streams), "{streams} streams in 3 s");
    calling.abort();
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_answered_or_was_there_for_a_while_is_called_again_at_once() {
    let (resolver, mut vault) = begin(MINUTE);
    let mut broken = Instant::now();
    for round in 0..10 {
        let mut line = vault.line().await;
        let took = broken.elapsed();
        assert!(took <= Duration::from_millis(25), "round {round}: {took:?}");
        if round % 2 == 0 {
            assert_eq!(tokio::join!(call(&resolver), line.answer()).0, Ok(()));
        } else {
            assert!(line.attend().await.unwrap().is_empty());
            line.say(&[]).await;
            time::sleep(Duration::from_secs(5)).await;
        }
        broken = Instant::now();
        line.end().await;
    }
}

// ---- waiting ----

#[tokio::test(start_paused = true)]
async fn who_gave_up_takes_no_place_while_no_vault_is_there() {
    let (resolver, _vault) = begin_without(BUDGET);
    for _ in 0..5 {
        let ended = calls(&resolver, 3_000).await;
        assert_eq!(count(&ended, Reason::VaultUnavailable), 3_000);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_takes_no_place_while_the_vault_does_not_read() {
    let (resolver, mut vault) = begin(BUDGET);
    let _unread = vault.line().await;
    for _ in 0..5 {
        let ended = calls(&resolver, 3_000).await;
        assert_eq!(count(&ended, Reason::DeadlineExceeded), 3_000);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    const MOST: usize = 8192;
    let (resolver, mut vault) = begin(BUDGET);
    let mut line = vault.line().await;
    let hearing = tokio::spawn(async move { while line.hear().await.is_some() {} });
    for _ in 0..2 {
        let ended = calls(&resolver, 12_000).await;
        assert_eq!(count(&ended, Reason::Overloaded), 12_000 - MOST);
        assert_eq!(count(&ended, Reason::DeadlineExceeded), MOST);
    }
    hearing.abort();
}

#[tokio::test(start_paused = true)]
async fn answers_to_callers_that_gave_up_leave_the_stream_whole() {
    let (resolver, mut vault) = begin(BUDGET);
    let mut line = vault.line().await;
    let entry = Arc::new(Entry::added(
        WorkspaceName::parse("w").unwrap(),
        ServerName::parse("s").unwrap(),
        Uid::generate(),
        Spec::of_url("https://a.example"),
    ));
    let checks = |count: u64| {
        let check = async || {
            let checked = resolver.check(&entry).await;
            checked.map(drop).map_err(|refusal| refusal.reason)
        };
        join_all((0..count).map(move |number| async move {
            time::sleep(Duration::from_millis(number / 1_000)).await;
            check().await
        }))
    };
    // The vault reads two waves of calls and answers none in time. The second wave takes the places of the first.
    let hearing = async {
        let mut heard = Vec::new();
        while heard.len() < 2 * 8192 {
            heard.extend(line.attend().await.unwrap());
        }
        heard
    };
    let waves = async { [checks(8_192).await, checks(8_192).await].concat() };
    let (heard, ended) = tokio::join!(hearing, waves);
    assert_eq!(count(&ended, Reason::DeadlineExceeded), 2 * 8192);
    let (answered, ()) = tokio::join!(call(&resolver), async {
        line.say(&heard).await;
        line.answer().await;
    });
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_answers_nothing_is_not_asked_without_end() {
    let (resolver, mut vault) = begin(BUDGET);
    let mut line = vault.line().await;
    let hearing = tokio::spawn(async move { while line.hear().await.is_some() {} });
    let mut refused = 0;
    for _ in 0..5 {
        refused += count(&calls(&resolver, 8_192).await, Reason::Overloaded);
    }
    assert_eq!(refused, 8_192);
    hearing.abort();
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may_while_no_vault_is_there() {
    const MOST: usize = 8192;
    let (resolver, _vault) = begin_without(BUDGET);
    for _ in 0..2 {
        let ended = calls(&resolver, 12_000).await;
        assert_eq!(count(&ended, Reason::Overloaded), 12_000 - MOST);
        assert_eq!(count(&ended, Reason::VaultUnavailable), MOST);
    }
}

#[tokio::test(start_paused = true)]
async fn who_gave_up_before_the_vault_was_there_is_not_asked_for() {
    let (resolver, mut vault) = begin_without(BUDGET);
    let given_up = calls(&resolver, 100).await;
    assert_eq!(count(&given_up, Reason::VaultUnavailable), 100);
    vault.come();
    let mut line = vault.line().await;
    let (answered, asked) = tokio::join!(call(&resolver), line.answer());
    assert_eq!((answered, asked), (Ok(()), 1));
}
