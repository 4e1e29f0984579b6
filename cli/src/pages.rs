//! Lists that the services return in pages.

use crate::failure::Failure;

/// The largest `page_size` that the services accept.
pub(crate) const MAX_PAGE_SIZE: u32 = 1000;

/// Returns the items of all pages. `fetch` takes a page token, and returns that page's items and the next page's token.
pub(crate) async fn list_all<T>(
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
) -> Result<Vec<T>, Failure> {
    let (mut items, mut token) = fetch(String::new()).await?;
    while !token.is_empty() {
        let (page, next_token) = fetch(token).await?;
        items.extend(page);
        token = next_token;
    }
    Ok(items)
}
