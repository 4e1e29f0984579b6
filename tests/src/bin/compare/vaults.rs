//! Measures the vault alone, beside OpenBao.

use std::path::Path;

use crate::{
    Common, Failure,
    decrypts::{Decrypts, How},
    openbao::OpenBao,
    run::{Contest, Kind, Means, Who, contest},
    services::Vault,
};

/// The ways in which the vault is called: unary calls with values in clear or sealed, and streams like those of an
/// injector under heavy and light load.
pub(crate) const OURS: [How; 4] = [
    How::Unary { sealed: false },
    How::Unary { sealed: true },
    STREAMED,
    How::Stream { at_once: 5 },
];
/// The stream of an injector under heavy load, for which there is an aim.
pub(crate) const STREAMED: How = How::Stream { at_once: 50 };
/// Number of secrets in OpenBao, which more secrets would not make faster.
const OPENBAO_SECRETS: u32 = 100;

pub(crate) async fn measure(
    common: &Common,
    bin_dir: &Path,
    scratch: &Path,
    contests: &mut Vec<Contest>,
) -> Result<(), Failure> {
    let openbao = OpenBao::start(&common.peers, scratch, OPENBAO_SECRETS).await?;
    let mut vault = Vault::start(bin_dir, scratch, "vault-alone").await?;
    for (index, secrets) in common.counts().into_iter().enumerate() {
        vault.fill(secrets).await?;
        let mut entries: Vec<(Who, Means)> = OURS
            .into_iter()
            .map(|how| {
                (
                    Who::Vault(how),
                    Means::Decrypts(Decrypts::new(how, &vault, secrets)),
                )
            })
            .collect();
        // The vault with an audit log runs only until this contest ends.
        let _audited = if index == 0 {
            let audited = Vault::start_audited(bin_dir, scratch, secrets).await?;
            entries.extend(OURS.map(|how| {
                let decrypts = Decrypts::new(how, &audited, secrets);
                (Who::Audited(how), Means::Decrypts(decrypts))
            }));
            let ((load, target), (transit, transit_target)) =
                (openbao.reads(OPENBAO_SECRETS), openbao.decrypts());
            entries.push((Who::OpenBaoRead, Means::Calls(load, target)));
            entries.push((Who::OpenBaoTransit, Means::Calls(transit, transit_target)));
            Some(audited)
        } else {
            None
        };
        contests.push(contest(common, scratch, Kind::Vault { secrets }, entries).await?);
    }
    Ok(())
}
