//! Holds the OpenAPI document against running nodes: what they answer is what it says, status by status.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::stage::{Request, Response, Stage, TOKEN, start};

/// Statuses in the document that a test would have to wait long for, or to be quicker than the node.
const NOT_PROVOKED: [(&str, &str, u16); 6] = [
    // A body that takes ten seconds.
    ("POST", "/api/v1/provisions", 408),
    ("POST", "/api/v1/refreshes", 408),
    // A node that leaves, or that is still starting after half a minute.
    ("POST", "/api/v1/provisions", 503),
    ("POST", "/api/v1/refreshes", 503),
    ("GET", "/api/v1/tree", 503),
    // The stage's registry answers for every tag.
    ("POST", "/api/v1/refreshes", 404),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let stage = Stage::new().await;
    let plain = start(stage.config("plain")).await;
    let guarded =
        faasnet::config::Config { api_token: Some(TOKEN.parse().unwrap()), ..stage.config("guarded") };
    let guarded = start(guarded).await;
    let lonely = faasnet::config::Config { seeds: vec!["127.0.0.1:9".to_owned()], ..stage.config("lonely") };
    let starting = faasnet::Node::start(lonely).await.unwrap();

    let document = Document::of(&Request::get("/api/v1/openapi.json").to(&plain).await);
    let mut seen = BTreeSet::new();
    let mut check = |request: &Request, response: &Response| {
        document.check(request, response);
        seen.insert((request.method.clone(), request.path().to_owned(), response.status));
    };
    let not_yet = Request::get("/readyz");
    check(&not_yet, &not_yet.to(&starting).await);
    for (request, status) in requests(&stage) {
        let response = request.to(&plain).await;
        assert_eq!(response.status, status, "{request:?}: {}", response.text());
        check(&request, &response);
    }
    let refresh = Request::post("/api/v1/refreshes", &json!({ "reference": stage.reference() }).to_string());
    let request = stage.provision();
    for (request, status) in [
        (refresh, 401),
        (request.clone(), 401),
        (request.clone().with("Authorization", "Bearer x"), 401),
        (request.with("Authorization", &format!("Bearer {TOKEN}")), 200),
    ] {
        let response = request.to(&guarded).await;
        assert_eq!(response.status, status, "{request:?}: {}", response.text());
        check(&request, &response);
    }

    let not_provoked =
        NOT_PROVOKED.map(|(method, path, status)| (method.to_owned(), path.to_owned(), status));
    let expected: BTreeSet<_> =
        document.statuses().into_iter().filter(|listed| !not_provoked.contains(listed)).collect();
    assert_eq!(seen, expected, "every status in the document is provoked here, or listed as one that is not");
}

/// Requests to a node without a token, and what they are answered.
fn requests(stage: &Stage) -> Vec<(Request, u16)> {
    let tree = |query: &str| Request::get(&format!("/api/v1/tree?{query}"));
    let provision =
        |reference: &str| Request::post("/api/v1/provisions", &json!({ "reference": reference }).to_string());
    let refresh =
        |reference: &str| Request::post("/api/v1/refreshes", &json!({ "reference": reference }).to_string());
    let (image, registry) = (stage.reference(), stage.registry.address());
    let absent = format!("{registry}/demo/image@sha256:{}", "0".repeat(64));
    let large = "a".repeat(100_000);
    vec![
        (Request::get("/api/v1/status"), 200),
        (Request::get("/api/v1/members"), 200),
        (Request::get("/api/v1/functions"), 200),
        (Request::get("/api/v1/openapi.json"), 200),
        (Request::get("/metrics"), 200),
        (Request::get("/healthz"), 200),
        (Request::get("/readyz"), 200),
        (tree(&format!("reference={image}")), 200),
        (tree(""), 400),
        (tree("reference=A"), 400),
        (tree(&format!("reference={image}&function={}", stage.image.manifest)), 400),
        (tree("reference=elsewhere.example/app"), 403),
        (tree(&format!("reference={absent}")), 404),
        (tree("reference=nonsense.example/app"), 422),
        (tree("reference=down.example/app"), 502),
        (stage.provision().with("Accept", "text/event-stream"), 200),
        (stage.provision(), 200),
        (tree(&format!("function={}", stage.image.manifest)), 200),
        (Request::get("/api/v1/functions"), 200),
        (Request::post("/api/v1/provisions", "{"), 400),
        (provision("elsewhere.example/app"), 403),
        (stage.provision().with("Host", "evil.example"), 403),
        (provision(&absent), 404),
        (provision(&large), 413),
        (stage.provision().without("Content-Type"), 415),
        (Request::post("/api/v1/provisions", "{}"), 422),
        (provision("nonsense.example/app"), 422),
        (provision("down.example/app"), 502),
        (provision("broken.example/app"), 502),
        (refresh(&image), 200),
        (Request::post("/api/v1/refreshes", "{"), 400),
        (refresh("elsewhere.example/app"), 403),
        (refresh(&large), 413),
        (refresh(&image).without("Content-Type"), 415),
        (Request::post("/api/v1/refreshes", "{}"), 422),
        (refresh("down.example/app"), 502),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_on_the_way_says_where_more_is_told() {
    let stage = Stage::new().await;
    let node = start(stage.config("n1")).await;
    let order = Request::post("/api/v1/provisions", r#"{"reference":"broken.example/app"}"#);
    let failed = order.to(&node).await;
    let (kind, detail) = failed.problem();
    assert_eq!((failed.status, kind.as_str()), (502, "provision-failed"));
    assert!(detail.contains("broken.example/app") && detail.contains("not found"), "{detail}");
    let problem: faasnet::api::Problem = serde_json::from_slice(&failed.body).unwrap();
    let more = Request::get(&problem.instance.unwrap()).to(&node).await;
    let tree: faasnet::api::Tree = serde_json::from_slice(&more.body).unwrap();
    assert_eq!(tree.function, node.functions()[0].function);

    let events = order.with("Accept", "text/event-stream").to(&node).await;
    assert_eq!(events.status, 200);
    assert!(events.text().contains("event: failed\n"), "{}", events.text());
    let page = Request::get("/metrics").to(&node).await.text();
    assert!(page.contains("faasnet_provisions_total{result=\"failed\"} 2\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_document_is_a_problem_too() {
    let stage = Stage::new().await;
    let node = start(stage.config("n1")).await;
    let document = Document::of(&Request::get("/api/v1/openapi.json").to(&node).await);
    for (request, status) in [
        (Request::get("/api/v1/absent"), 404),
        (Request::get("/api"), 404),
        (Request::get("/api/v1/provisions"), 405),
        (Request::new("DELETE", "/api/v1/functions"), 405),
        (Request::new("POST", "/metrics"), 405),
    ] {
        let response = request.to(&node).await;
        assert_eq!(response.status, status, "{request:?}");
        assert_eq!(response.problem().0, "blank");
        let body = serde_json::from_slice(&response.body).unwrap();
        document.validate(&json!({ "$ref": "#/components/schemas/Problem" }), &body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_always_there_but_for_these() {
    let stage = Stage::new().await;
    let node = start(stage.config("n1")).await;
    let document = Document::of(&Request::get("/api/v1/openapi.json").to(&node).await);
    let mut optional = Vec::new();
    for (name, schema) in document.0["components"]["schemas"].as_object().unwrap() {
        let required = schema["required"].as_array();
        for field in schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys()) {
            if !required.is_some_and(|required| required.contains(&field.as_str().into())) {
                optional.push(format!("{name}.{field}"));
            }
        }
    }
    assert_eq!(optional, ["Problem.instance", "ProvisionRequest.platform"]);
}

/// The OpenAPI document, as a node serves it.
struct Document(Value);

impl Document {
    fn of(response: &Response) -> Self {
        let document: Value = serde_json::from_slice(&response.body).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
        Self(document)
    }

    /// Every method, path and status that it lists.
    fn statuses(&self) -> BTreeSet<(String, String, u16)> {
        let mut listed = BTreeSet::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    listed.insert((method.to_uppercase(), path.clone(), status.parse().unwrap()));
                }
            }
        }
        listed
    }

    /// Whether an answer has a status, headers, a type and a body that the document lists for the request.
    fn check(&self, request: &Request, response: &Response) {
        let said = format!("{} {} {}", request.method, request.target, response.status);
        let operation = &self.0["paths"][request.path()][request.method.to_lowercase()];
        let listed = self.resolve(&operation["responses"][response.status.to_string()]);
        assert!(listed.is_object(), "{said}: the status is not listed");
        for (name, header) in listed["headers"].as_object().into_iter().flatten() {
            let found = response.header(&name.to_lowercase());
            assert!(found.is_some() || header["required"] != true, "{said}: there is no {name}");
        }
        let media_type = response.header("content-type").unwrap().split(';').next().unwrap();
        let content = &listed["content"][media_type];
        assert!(content.is_object(), "{said}: {media_type} is not listed");
        match media_type {
            "text/event-stream" => self.check_events(content, &response.text()),
            "text/plain" => self.validate(&content["schema"], &response.text().into()),
            _ => self.validate(&content["schema"], &serde_json::from_slice(&response.body).unwrap()),
        }
    }

    /// Every event has a name and data as listed, and the last one says how it ended.
    fn check_events(&self, content: &Value, stream: &str) {
        let names = content["x-event-names"].as_array().unwrap();
        let mut last = "";
        for event in stream.split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
            let field =
                |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim();
            assert!(names.contains(&field("event:").into()), "{event}");
            self.validate(&content["x-event-data"], &serde_json::from_str(field("data:")).unwrap());
            last = field("event:");
        }
        assert_eq!(last, "done", "{stream}");
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')).expect("it leads somewhere"),
            None => value,
        }
    }

    /// Whether a value is as a schema says, and has no field that the schema does not name.
    fn validate(&self, schema: &Value, value: &Value) {
        let mut whole = json!({ "allOf": [schema], "components": self.0["components"] });
        close(&mut whole["components"]["schemas"]);
        let validator = jsonschema::validator_for(&whole).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{value:#} is not as the document says: {errors:#?}");
    }
}

/// Fields may be added by later releases, so the document leaves schemas open; what this one has must be in it.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object)
                && fields.get("type") == Some(&"object".into())
            {
                fields.entry("additionalProperties").or_insert(false.into());
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
