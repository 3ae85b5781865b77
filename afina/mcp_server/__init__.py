"""A server for agents by the Model Context Protocol: `reach` is what it may read and start, `verbs` asks afina's own
verbs in processes of their own, `server` is its tools."""
