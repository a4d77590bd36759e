//! Container filesystems on pulled images.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crio_setup::ocid::image::ImageStore;
use crio_setup::ocid::storage::StorageError;

use crate::liar::Liar;
use crate::pack::{Compression, Form, Layer, Packed, archive};
use crate::{Home, Mounted};

async fn pulled(home: &Home, layers: &[Layer]) -> (ImageStore, String) {
    let liar = Liar::start().await;
    liar.serve("1", &Packed::new(Form::Oci, "c", layers));
    let store = home.open();
    let name = liar.image("1");
    store.pull(&name, None).await.unwrap();
    (store, name)
}

fn layer(files: &[(&str, &[u8])]) -> Layer {
    Layer::new(&archive(files), Compression::Gzip)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_the_layers_and_writes_only_its_own() {
    let base = layer(&[
        ("f", b"base"),
        ("gone", b""),
        ("dir/old", b""),
        ("opq/old", b""),
        ("re/old", b""),
    ]);
    let top = layer(&[
        ("f", b"top"),
        (".wh.gone", b""),
        ("dir/new", b""),
        ("opq/.wh..wh..opq", b""),
        ("opq/new", b""),
        (".wh.re", b""),
        ("re/new", b""),
    ]);
    let home = Home::default();
    // The base is there twice, as happens with empty layers; overlayfs takes no folder twice.
    let (store, name) = pulled(
        &home,
        &[base.clone(), top.clone(), layer(&[("x", b"")]), top],
    )
    .await;
    let image = store.get(&name).unwrap();
    let targets: Vec<_> = ["a", "b"]
        .iter()
        .map(|c| Mounted(home.dir.path().join("run").join(c).join("rootfs")))
        .collect();
    for (id, target) in ["ca", "cb"].iter().zip(&targets) {
        store.mount_container(id, &image, &target.0).await.unwrap();
    }
    let (one, two) = (&targets[0].0, &targets[1].0);
    assert_eq!(fs::read(one.join("f")).unwrap(), b"top");
    assert_eq!(crate::names(one), ["dir", "f", "opq", "re", "x"]);
    assert_eq!(crate::names(&one.join("dir")), ["new", "old"]);
    assert_eq!(crate::names(&one.join("opq")), ["new"]);
    assert_eq!(crate::names(&one.join("re")), ["new"]);
    assert_eq!(
        fs::metadata(one).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    fs::write(one.join("f"), "mine").unwrap();
    assert_eq!(fs::read(two.join("f")).unwrap(), b"top");
    // Mounted again (by a new daemon, say), what it wrote is still there.
    store.mount_container("ca", &image, one).await.unwrap();
    assert_eq!(fs::read(one.join("f")).unwrap(), b"mine");
    for (id, target) in ["ca", "cb"].iter().zip(&targets) {
        store.unmount_container(&target.0).unwrap();
        store.unmount_container(&target.0).unwrap();
        assert_eq!(fs::read_dir(&target.0).unwrap().count(), 0);
        store.remove_container(id).unwrap();
        store.remove_container(id).unwrap();
    }
    assert_eq!(home.names("containers"), [""; 0]);
    store.remove(&name).unwrap();
    home.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_keeps_its_layers_after_its_image_is_removed() {
    let home = Home::default();
    let (store, name) = pulled(&home, &[layer(&[("f", b"base")])]).await;
    let image = store.get(&name).unwrap();
    let target = Mounted(home.dir.path().join("rootfs"));
    store
        .mount_container("c1", &image, &target.0)
        .await
        .unwrap();
    store.remove(&name).unwrap();
    assert!(store.get(&name).is_none());
    assert_eq!(home.names("layers").len(), 1);
    // Also for the next daemon, which reads the lease back.
    drop(store);
    let store = home.open();
    assert_eq!(home.names("layers").len(), 1);
    assert_eq!(fs::read(target.0.join("f")).unwrap(), b"base");
    // A new container cannot have it any more once the old one is gone.
    store.unmount_container(&target.0).unwrap();
    store.remove_container("c1").unwrap();
    home.assert_empty();
    let e = store
        .mount_container("c2", &image, &target.0)
        .await
        .unwrap_err();
    assert!(matches!(e, StorageError::MissingLayer(_)), "{e}");
    assert!(e.hint().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_layers_that_an_image_may_have() {
    let layers: Vec<Layer> = (0..127)
        .map(|n| layer(&[(format!("f{n}").as_str(), b"")]))
        .collect();
    let home = Home::default();
    let (store, name) = pulled(&home, &layers).await;
    let image = store.get(&name).unwrap();
    let target = Mounted(home.dir.path().join("rootfs"));
    store
        .mount_container(&"0f".repeat(32), &image, &target.0)
        .await
        .unwrap();
    assert_eq!(fs::read_dir(&target.0).unwrap().count(), 127);
    let many: Vec<Layer> = (0..128)
        .map(|n| layer(&[(format!("f{n}").as_str(), b"")]))
        .collect();
    let liar = Liar::start().await;
    liar.serve("1", &Packed::new(Form::Oci, "many", &many));
    let e = store.pull(&liar.image("1"), None).await.unwrap_err();
    assert!(e.to_string().contains("127"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers_is_an_empty_folder() {
    let home = Home::default();
    let (store, name) = pulled(&home, &[]).await;
    let image = store.get(&name).unwrap();
    let target = Mounted(home.dir.path().join("rootfs"));
    store
        .mount_container("c1", &image, &target.0)
        .await
        .unwrap();
    fs::write(target.0.join("f"), "x").unwrap();
    assert!(
        fs::metadata(home.root().join("containers/c1/upper/f"))
            .unwrap()
            .size()
            == 1
    );
}
