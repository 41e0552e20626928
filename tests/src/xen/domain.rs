//! A domain's own directories in xenstore.

use super::xenstored::Xenstored;

impl Xenstored {
    /// The guest's directories, as libxl makes them before it starts.
    pub fn create_domain(&mut self) {
        let home = self.home();
        let me = self.guest();
        let read_only = ["n0".to_string(), format!("r{me}")];
        let own = [format!("n{me}")];
        let perms = |list: &[String]| -> Vec<String> { list.to_vec() };
        for (path, value, perms) in [
            ("", String::new(), perms(&read_only)),
            ("/name", "guest".to_string(), perms(&read_only)),
            ("/domid", me.to_string(), perms(&read_only)),
            ("/device", String::new(), perms(&read_only)),
            ("/device/vbd", String::new(), perms(&read_only)),
            ("/control", String::new(), perms(&read_only)),
            ("/control/shutdown", String::new(), perms(&own)),
            ("/data", String::new(), perms(&own)),
            ("/memory", String::new(), perms(&read_only)),
            ("/store", String::new(), perms(&read_only)),
            ("/console", String::new(), perms(&read_only)),
            (
                "/console/type",
                "xenconsoled".to_string(),
                perms(&read_only),
            ),
        ] {
            let path = format!("{home}{path}");
            let list: Vec<&str> = perms.iter().map(String::as_str).collect();
            self.write(&path, &value);
            self.set_perms(&path, &list);
        }
        self.take_changed();
    }
}
