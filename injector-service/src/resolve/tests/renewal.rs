//! The move of the stream to a new connection when the injector's certificate or the vault's CAs are replaced, in paused time.

use tokio::{task::JoinSet, time};

use super::{
    fake_vault::{FakeVault, VaultStream, start},
    stream::{TIMEOUT, call, serve},
    *,
};

/// Waits for the first stream of a vault and its first key.
async fn first_stream(vault: &mut FakeVault) -> VaultStream {
    let mut stream = vault.stream().await;
    assert!(stream.receive_calls().await.unwrap().is_empty());
    stream.answer(&[]).await;
    stream
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_replaced_when_the_credentials_change_after_its_answers_arrived() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut old = first_stream(&mut vault).await;
    let (answered, ()) = tokio::join!(call(&resolver), async {
        let calls = old.receive_calls().await.unwrap();
        vault.renew_certificate();
        let mut new = vault.stream().await;
        old.answer(&calls).await;
        // The new stream has a key of its own, and none of the calls.
        assert!(new.receive_calls().await.unwrap().is_empty());
        new.answer(&[]).await;
        assert!(old.receive().await.is_none(), "the old stream goes on");
        let (answered, _) = tokio::join!(call(&resolver), new.answer_next());
        assert_eq!(answered, Ok(()));
    });
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_replaced_stream_does_not_answer_is_sent_over_the_new_one() {
    let (resolver, mut vault) = start(2 * TIMEOUT);
    let mut old = first_stream(&mut vault).await;
    let (answered, ()) = tokio::join!(call(&resolver), async {
        let calls = old.receive_calls().await.unwrap();
        assert_eq!(calls.len(), 1);
        vault.renew_certificate();
        assert_eq!(vault.stream().await.answer_next().await, 1);
    });
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_open_stream_serves_while_the_vault_accepts_no_connection_with_the_new_credentials() {
    let (resolver, mut vault) = start(TIMEOUT);
    let mut old = first_stream(&mut vault).await;
    vault.accept_no_more();
    vault.renew_certificate();
    for _ in 0..10 {
        time::sleep(Duration::from_secs(3)).await;
        let (answered, _) = tokio::join!(call(&resolver), old.answer_next());
        assert_eq!(answered, Ok(()));
        assert!(resolver.is_connected());
    }
    vault.accept();
    let mut new = first_stream(&mut vault).await;
    let (answered, _) = tokio::join!(call(&resolver), new.answer_next());
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_broke_after_a_change_of_the_certificate_is_not_opened_again_over_the_old_connection() {
    let (resolver, mut vault) = start(TIMEOUT);
    let old = first_stream(&mut vault).await;
    vault.accept_no_more();
    vault.renew_certificate();
    old.break_off().await;
    time::sleep(Duration::from_secs(5)).await;
    assert!(!resolver.is_connected());
    vault.accept();
    let mut new = first_stream(&mut vault).await;
    let (answered, _) = tokio::join!(call(&resolver), new.answer_next());
    assert_eq!(answered, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn credentials_that_change_again_and_again_under_load_fail_no_call() {
    let (resolver, mut vault) = start(TIMEOUT);
    let until = Instant::now() + Duration::from_secs(60);
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let resolver = resolver.clone();
        callers.spawn(async move {
            while Instant::now() < until {
                assert_eq!(call(&resolver).await, Ok(()));
            }
        });
    }
    let mut streams = 0;
    while Instant::now() < until {
        tokio::spawn(serve(vault.stream().await, Duration::from_millis(30)));
        streams += 1;
        time::sleep(Duration::from_millis(300)).await;
        vault.renew_certificate();
    }
    tokio::spawn(serve(vault.stream().await, Duration::from_millis(30)));
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    assert!(streams > 100, "{streams}");
}
