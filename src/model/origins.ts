/**
 * Which run a reused execution comes from: its record only knows the execution that made the results.
 */

import { Client, sentence } from '../api/client';
import type { IExecution } from '../api/schema';

export class Origins {
  /**
   * @param onKnown - called when an answer has come.
   */
  constructor(
    private _client: Client,
    private _onKnown: () => void
  ) {}

  /** The id of the run, or null until the server has answered; the question is asked once. */
  runOf(execution: IExecution, path: string | null): string | null {
    const origin = execution.reused_from;
    if (origin === null) {
      return null;
    }
    const known = this._runs.get(origin);
    if (known === undefined) {
      this._runs.set(origin, null);
      this._client.execution(origin, path).then(
        found => {
          this._runs.set(origin, found.run);
          this._onKnown();
        },
        error => console.warn(sentence(error))
      );
    }
    return known ?? null;
  }

  private _runs = new Map<string, string | null>();
}
