use super::*;

fn passphrase(text: &str) -> Passphrase {
    Passphrase::parse(Zeroizing::new(text.into())).expect("a passphrase")
}

const RIGHT: &str = "correct horse battery staple";

/// Wraps `root` with weak Argon2id parameters, which the stored bytes contain, so that a test can unwrap often.
fn wrap_cheaply(root: &RootKey) -> Vec<u8> {
    let params = Argon2Params {
        memory_kib: 64,
        passes: 1,
        lanes: 1,
        salt: [7; 16],
    };
    let key = params.key(&passphrase(RIGHT)).expect("legal");
    let aad = aad::wrapped_root_key(root.id(), &params.to_bytes());
    let wrap = wrap::wrap(&key, Purpose::WrapRootKey, &aad, root.key()).expect("randomness");
    let mut out = vec![format::WRAPPED_ROOT_KEY, ALGORITHM];
    out.extend_from_slice(root.id().as_bytes());
    out.extend_from_slice(&params.to_bytes());
    wrap.write(&mut out);
    out
}

#[test]
fn a_root_key_unwraps_only_with_its_passphrase() {
    let root = RootKey::generate().expect("randomness");
    let bytes = wrap(&root, &passphrase(RIGHT)).expect("randomness");
    assert_eq!(bytes.len(), 170);
    // 64 MiB, 3 passes, 4 lanes.
    assert_eq!(bytes.get(18..30), Some(&[0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4][..]));
    let unwrapped = unwrap(&bytes, &passphrase(RIGHT)).expect("unwraps");
    assert!(unwrapped.expose() == root.expose());
    assert_eq!(
        unwrap(&bytes, &passphrase("correct horse battery stable")).err(),
        Some(Corruption::Commitment)
    );
}

/// Another program made the file.
#[test]
fn a_root_key_that_another_program_wrapped_unwraps() {
    let text = include_str!("../../../testdata/root-key/wrapped_with_a_passphrase");
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(field, _)| *field == name).expect("the field").1
    };
    let hex = |name: &str| -> Vec<u8> {
        let digits = field(name).as_bytes().chunks_exact(2);
        let byte = |pair| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16);
        digits.map(|pair| byte(pair).expect("hex")).collect()
    };
    let opened = unwrap(&hex("wrapped"), &passphrase(field("passphrase"))).expect("unwraps");
    assert!(opened.expose()[..] == hex("root-key"));
}

#[test]
fn two_wraps_of_one_root_key_have_different_salts() {
    let root = RootKey::generate().expect("randomness");
    let [a, b] = [(); 2].map(|()| wrap(&root, &passphrase(RIGHT)).expect("randomness"));
    assert_ne!(a.get(30..46), b.get(30..46));
}

#[test]
fn a_wrapped_root_key_with_any_flipped_bit_is_refused_and_excessive_parameters_are_not_tried() {
    let root = RootKey::generate().expect("randomness");
    let bytes = wrap_cheaply(&root);
    assert!(unwrap(&bytes, &passphrase(RIGHT)).is_ok());
    // Without bytes 18 to 29: some flips there make legal parameters that cost much time.
    for at in (0..bytes.len()).filter(|at| !(18..30).contains(at)) {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            *flipped.get_mut(at).expect("in range") ^= 1 << bit;
            assert!(unwrap(&flipped, &passphrase(RIGHT)).is_err(), "{at} {bit}");
        }
    }
    for (memory_kib, passes, lanes) in [(u32::MAX, 1, 1), (64, u32::MAX, 1), (64, 1, u32::MAX), (0, 0, 0)] {
        let mut costly = bytes.clone();
        let fields = [memory_kib, passes, lanes].map(u32::to_be_bytes);
        costly.splice(18..30, fields.into_iter().flatten());
        let refused = unwrap(&costly, &passphrase(RIGHT)).err();
        assert_eq!(refused, Some(Corruption::DoesNotAuthenticate));
    }
}

#[test]
fn a_wrapped_root_key_of_another_length_is_refused() {
    let mut bytes = wrap_cheaply(&RootKey::generate().expect("randomness"));
    for len in 0..bytes.len() {
        let cut = bytes.get(..len).expect("shorter");
        assert_eq!(unwrap(cut, &passphrase(RIGHT)).err(), Some(Corruption::Truncated));
    }
    bytes.push(0);
    assert_eq!(
        unwrap(&bytes, &passphrase(RIGHT)).err(),
        Some(Corruption::TrailingBytes)
    );
}

/// Test vector of RFC 9106, 5.3.
#[test]
fn argon2id_agrees_with_the_rfc() {
    let params = argon2::ParamsBuilder::new()
        .m_cost(32)
        .t_cost(3)
        .p_cost(4)
        .data(argon2::AssociatedData::new(&[4; 12]).expect("short"))
        .build()
        .expect("legal");
    let secret = [3; 8];
    let argon2 =
        Argon2::new_with_secret(&secret, Algorithm::Argon2id, Version::V0x13, params).expect("legal");
    let mut tag = [0; 32];
    argon2
        .hash_password_into(&[1; 32], &[2; 16], &mut tag)
        .expect("legal");
    let expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659";
    let found: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_passphrase_that_is_too_short_or_too_long_is_refused() {
    let parse = |len| Passphrase::parse(Zeroizing::new(vec![b'x'; len])).err();
    for (len, wrong) in [(0, true), (15, true), (16, false), (1024, false), (1025, true)] {
        assert_eq!(parse(len), wrong.then_some(PassphraseLength), "{len}");
    }
}
