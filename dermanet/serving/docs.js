// Swagger's page of /openapi.json, from this server alone.
SwaggerUIBundle({ url: "openapi.json", dom_id: "#api", deepLinking: true, presets: [SwaggerUIBundle.presets.apis] });
